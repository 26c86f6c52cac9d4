# SPDX-License-Identifier: Apache-2.0
"""Why things in NVIDIA FLARE's project.yml have no counterpart here: one clause each."""

UNKNOWN_KEY = "it has no counterpart here"

TOP_KEYS = {
    "description": "a project has a name only; organisations have titles",
    "packager": "kits are folders; `flprov kit` packs and sends them",
    "studies": "there is one project in a network; a job names its sites, and each person has one role",
    "edge": "sites are listed one by one; there are no trees of relays",
    "connection_security": "it is mutual TLS 1.3 everywhere",
    "server_components": "the server takes no components; a job brings its own code",
    "client_components": "a site takes no components; a job brings its own code",
    "allow_error_sending": "errors go to the server always, without data",
}

PARTICIPANT_TYPES = {
    "overseer": "sites find the server by its endpoints, which are tried in order",
    "relay": "sites dial the server themselves",
    "edge_node": "sites dial the server themselves",
}

PARTICIPANT_KEYS = {
    "admin_port": "the server has one port, for sites and people alike",
    "enable_byoc": "each site says in its policy.yml whose code may run there",
    "allow_byoc": "each site says in its policy.yml whose code may run there",
    "listening_host": "nothing listens at a site; it only dials out",
    "listening_port": "nothing listens at a site; it only dials out",
    "connect_to": "sites dial the server's endpoints",
    "connection_security": "it is mutual TLS 1.3 everywhere",
    "custom_ca_cert": "every party believes the project's own authorities only",
    "cc_config": "confidential computing has no counterpart here",
    "capacity": "what a site has is asked of the machine; policy.yml sets the ceilings",
    "components": "a site takes no components; a job brings its own code",
    "scheme": "there is one transport: gRPC",
    "conn_port": "the server has one port, for sites and people alike",
    "roles": "each person has one role",
}

DEFAULT_BUILDERS = {
    "WorkspaceBuilder",
    "TemplateBuilder",
    "StaticFileBuilder",
    "CertBuilder",
    "SignatureBuilder",
}

BUILDERS = {
    "HEBuilder": "homomorphic encryption has no counterpart here",
    "DockerBuilder": "templates/ decides what a kit brings for containers",
    "HelmChartBuilder": "templates/ decides what a kit brings for Kubernetes",
    "DistributionBuilder": "kits are folders; `flprov kit` packs and sends them",
    "AuthPolicyBuilder": "roles are fixed, and each site has its policy.yml",
    "CCBuilder": "confidential computing has no counterpart here",
}
