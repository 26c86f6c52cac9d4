from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Payload(_message.Message):
    __slots__ = ("inline", "digest", "file", "size")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    inline: bytes
    digest: str
    file: str
    size: int
    def __init__(self, inline: _Optional[bytes] = ..., digest: _Optional[str] = ..., file: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class UpdateMessage(_message.Message):
    __slots__ = ("kind", "tensors", "samples", "weight", "metrics", "seconds")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    tensors: Payload
    samples: int
    weight: float
    metrics: _containers.ScalarMap[str, float]
    seconds: float
    def __init__(self, kind: _Optional[str] = ..., tensors: _Optional[_Union[Payload, _Mapping]] = ..., samples: _Optional[int] = ..., weight: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., seconds: _Optional[float] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "traceback", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    traceback: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class FromSite(_message.Message):
    __slots__ = ("hello", "heartbeat", "deployed", "answer", "progress", "stopped", "trust", "witness", "probed", "leaving")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    deployed: Deployed
    answer: TaskAnswer
    progress: Progress
    stopped: Stopped
    trust: TrustHeld
    witness: Witness
    probed: Probed
    leaving: Leaving
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., deployed: _Optional[_Union[Deployed, _Mapping]] = ..., answer: _Optional[_Union[TaskAnswer, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., stopped: _Optional[_Union[Stopped, _Mapping]] = ..., trust: _Optional[_Union[TrustHeld, _Mapping]] = ..., witness: _Optional[_Union[Witness, _Mapping]] = ..., probed: _Optional[_Union[Probed, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ...) -> None: ...

class ToSite(_message.Message):
    __slots__ = ("welcome", "deploy", "task", "ack", "closed", "stop", "trust", "renew", "head", "probe", "halt", "standing", "several", "upcoming")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    HALT_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    SEVERAL_FIELD_NUMBER: _ClassVar[int]
    UPCOMING_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    deploy: Deploy
    task: TaskOrder
    ack: AnswerAck
    closed: RoundClosed
    stop: StopJob
    trust: TrustBundle
    renew: RenewNow
    head: LogHead
    probe: Probe
    halt: StopSite
    standing: Standing
    several: Several
    upcoming: Upcoming
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., deploy: _Optional[_Union[Deploy, _Mapping]] = ..., task: _Optional[_Union[TaskOrder, _Mapping]] = ..., ack: _Optional[_Union[AnswerAck, _Mapping]] = ..., closed: _Optional[_Union[RoundClosed, _Mapping]] = ..., stop: _Optional[_Union[StopJob, _Mapping]] = ..., trust: _Optional[_Union[TrustBundle, _Mapping]] = ..., renew: _Optional[_Union[RenewNow, _Mapping]] = ..., head: _Optional[_Union[LogHead, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., halt: _Optional[_Union[StopSite, _Mapping]] = ..., standing: _Optional[_Union[Standing, _Mapping]] = ..., several: _Optional[_Union[Several, _Mapping]] = ..., upcoming: _Optional[_Union[Upcoming, _Mapping]] = ...) -> None: ...

class Upcoming(_message.Message):
    __slots__ = ("job_id", "model")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    model: Payload
    def __init__(self, job_id: _Optional[str] = ..., model: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...

class Several(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ToSite]
    def __init__(self, messages: _Optional[_Iterable[_Union[ToSite, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "version", "installation", "host", "manifest", "jobs", "trust", "witness", "started_at", "disputed")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTALLATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    DISPUTED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    installation: str
    host: str
    manifest: str
    jobs: _containers.RepeatedScalarFieldContainer[str]
    trust: int
    witness: Witness
    started_at: str
    disputed: _containers.RepeatedCompositeFieldContainer[Witness]
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., installation: _Optional[str] = ..., host: _Optional[str] = ..., manifest: _Optional[str] = ..., jobs: _Optional[_Iterable[str]] = ..., trust: _Optional[int] = ..., witness: _Optional[_Union[Witness, _Mapping]] = ..., started_at: _Optional[str] = ..., disputed: _Optional[_Iterable[_Union[Witness, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "version", "installation", "heartbeat_seconds", "jobs", "head", "standing")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTALLATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    installation: str
    heartbeat_seconds: float
    jobs: _containers.RepeatedScalarFieldContainer[str]
    head: LogHead
    standing: Standing
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., installation: _Optional[str] = ..., heartbeat_seconds: _Optional[float] = ..., jobs: _Optional[_Iterable[str]] = ..., head: _Optional[_Union[LogHead, _Mapping]] = ..., standing: _Optional[_Union[Standing, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("vitals",)
    VITALS_FIELD_NUMBER: _ClassVar[int]
    vitals: bytes
    def __init__(self, vitals: _Optional[bytes] = ...) -> None: ...

class Deploy(_message.Message):
    __slots__ = ("job_id", "submission", "signature", "chain", "app_size", "model_size", "app")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMISSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    APP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    submission: bytes
    signature: bytes
    chain: bytes
    app_size: int
    model_size: int
    app: bytes
    def __init__(self, job_id: _Optional[str] = ..., submission: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., app_size: _Optional[int] = ..., model_size: _Optional[int] = ..., app: _Optional[bytes] = ...) -> None: ...

class Deployed(_message.Message):
    __slots__ = ("job_id", "ready", "refused", "gpus")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    ready: bool
    refused: Failure
    gpus: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., ready: _Optional[bool] = ..., refused: _Optional[_Union[Failure, _Mapping]] = ..., gpus: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskOrder(_message.Message):
    __slots__ = ("job_id", "task_id", "name", "round", "rounds", "expects", "model", "scalars", "extra", "requires")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EXPECTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task_id: str
    name: str
    round: int
    rounds: int
    expects: str
    model: Payload
    scalars: bytes
    extra: Payload
    requires: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., name: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., expects: _Optional[str] = ..., model: _Optional[_Union[Payload, _Mapping]] = ..., scalars: _Optional[bytes] = ..., extra: _Optional[_Union[Payload, _Mapping]] = ..., requires: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskAnswer(_message.Message):
    __slots__ = ("job_id", "task_id", "update", "failure")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task_id: str
    update: UpdateMessage
    failure: Failure
    def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., update: _Optional[_Union[UpdateMessage, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class AnswerAck(_message.Message):
    __slots__ = ("job_id", "task_id", "refused", "late")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task_id: str
    refused: Failure
    late: bool
    def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., refused: _Optional[_Union[Failure, _Mapping]] = ..., late: _Optional[bool] = ...) -> None: ...

class RoundClosed(_message.Message):
    __slots__ = ("job_id", "round")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("job_id", "task_id", "values", "step", "doing", "bytes_done", "bytes_total", "counted")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    task_id: str
    values: _containers.ScalarMap[str, float]
    step: int
    doing: str
    bytes_done: int
    bytes_total: int
    counted: bool
    def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., values: _Optional[_Mapping[str, float]] = ..., step: _Optional[int] = ..., doing: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., counted: _Optional[bool] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("name", "value", "step", "round", "task", "at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    step: int
    round: int
    task: str
    at: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., step: _Optional[int] = ..., round: _Optional[int] = ..., task: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class PointsMessage(_message.Message):
    __slots__ = ("job_id", "source", "first", "points")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    source: str
    first: int
    points: _containers.RepeatedCompositeFieldContainer[Point]
    def __init__(self, job_id: _Optional[str] = ..., source: _Optional[str] = ..., first: _Optional[int] = ..., points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ...) -> None: ...

class PointsReply(_message.Message):
    __slots__ = ("next",)
    NEXT_FIELD_NUMBER: _ClassVar[int]
    next: int
    def __init__(self, next: _Optional[int] = ...) -> None: ...

class StopJob(_message.Message):
    __slots__ = ("job_id", "reason", "grace_seconds")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    grace_seconds: float
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., grace_seconds: _Optional[float] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ("job_id", "clean", "processes", "reason", "freed")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FREED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    clean: bool
    processes: _containers.RepeatedScalarFieldContainer[int]
    reason: str
    freed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., clean: _Optional[bool] = ..., processes: _Optional[_Iterable[int]] = ..., reason: _Optional[str] = ..., freed: _Optional[_Iterable[str]] = ...) -> None: ...

class Leaving(_message.Message):
    __slots__ = ("reason", "back")
    REASON_FIELD_NUMBER: _ClassVar[int]
    BACK_FIELD_NUMBER: _ClassVar[int]
    reason: str
    back: bool
    def __init__(self, reason: _Optional[str] = ..., back: _Optional[bool] = ...) -> None: ...

class StopSite(_message.Message):
    __slots__ = ("reason", "restart")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    reason: str
    restart: bool
    def __init__(self, reason: _Optional[str] = ..., restart: _Optional[bool] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("drained",)
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    drained: str
    def __init__(self, drained: _Optional[str] = ...) -> None: ...

class LogHead(_message.Message):
    __slots__ = ("index", "digest", "witnessed_index", "witnessed_digest", "remark")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_INDEX_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    index: int
    digest: str
    witnessed_index: int
    witnessed_digest: str
    remark: str
    def __init__(self, index: _Optional[int] = ..., digest: _Optional[str] = ..., witnessed_index: _Optional[int] = ..., witnessed_digest: _Optional[str] = ..., remark: _Optional[str] = ...) -> None: ...

class Witness(_message.Message):
    __slots__ = ("index", "digest", "at", "signature", "chain")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    index: int
    digest: str
    at: str
    signature: bytes
    chain: bytes
    def __init__(self, index: _Optional[int] = ..., digest: _Optional[str] = ..., at: _Optional[str] = ..., signature: _Optional[bytes] = ..., chain: _Optional[bytes] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("probe_id", "submission", "signature", "chain", "app_size", "model_size")
    PROBE_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMISSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    APP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    probe_id: str
    submission: bytes
    signature: bytes
    chain: bytes
    app_size: int
    model_size: int
    def __init__(self, probe_id: _Optional[str] = ..., submission: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., app_size: _Optional[int] = ..., model_size: _Optional[int] = ...) -> None: ...

class Probed(_message.Message):
    __slots__ = ("probe_id", "refusals", "notes")
    PROBE_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    probe_id: str
    refusals: _containers.RepeatedCompositeFieldContainer[Failure]
    notes: bytes
    def __init__(self, probe_id: _Optional[str] = ..., refusals: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., notes: _Optional[bytes] = ...) -> None: ...

class TrustBundle(_message.Message):
    __slots__ = ("document", "signature", "signer")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    signature: bytes
    signer: bytes
    def __init__(self, document: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., signer: _Optional[bytes] = ...) -> None: ...

class TrustHeld(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class RenewNow(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    def __init__(self, request: _Optional[bytes] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("pending", "issued")
    PENDING_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    pending: JoinPending
    issued: Issued
    def __init__(self, pending: _Optional[_Union[JoinPending, _Mapping]] = ..., issued: _Optional[_Union[Issued, _Mapping]] = ...) -> None: ...

class JoinPending(_message.Message):
    __slots__ = ("fingerprint",)
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    def __init__(self, fingerprint: _Optional[str] = ...) -> None: ...

class RelayedJoin(_message.Message):
    __slots__ = ("request", "signature", "chain", "key", "not_after")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    signature: bytes
    chain: bytes
    key: str
    not_after: str
    def __init__(self, request: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    def __init__(self, request: _Optional[bytes] = ...) -> None: ...

class Issued(_message.Message):
    __slots__ = ("chain", "trust", "settings")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    trust: TrustBundle
    settings: bytes
    def __init__(self, chain: _Optional[bytes] = ..., trust: _Optional[_Union[TrustBundle, _Mapping]] = ..., settings: _Optional[bytes] = ...) -> None: ...

class BlobRequest(_message.Message):
    __slots__ = ("digest", "offset", "job_id", "length")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    job_id: str
    length: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., job_id: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class SameBytes(_message.Message):
    __slots__ = ("offset", "size", "base_offset")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    BASE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    size: int
    base_offset: int
    def __init__(self, offset: _Optional[int] = ..., size: _Optional[int] = ..., base_offset: _Optional[int] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("digest", "base", "job_id")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    digest: str
    base: str
    job_id: str
    def __init__(self, digest: _Optional[str] = ..., base: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class CompareReply(_message.Message):
    __slots__ = ("same",)
    SAME_FIELD_NUMBER: _ClassVar[int]
    same: _containers.RepeatedCompositeFieldContainer[SameBytes]
    def __init__(self, same: _Optional[_Iterable[_Union[SameBytes, _Mapping]]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("digest", "size", "job_id", "kind", "base", "same")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    job_id: str
    kind: str
    base: str
    same: _containers.RepeatedCompositeFieldContainer[SameBytes]
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ..., job_id: _Optional[str] = ..., kind: _Optional[str] = ..., base: _Optional[str] = ..., same: _Optional[_Iterable[_Union[SameBytes, _Mapping]]] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("offset", "complete", "whole", "ahead")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    offset: int
    complete: bool
    whole: bool
    ahead: int
    def __init__(self, offset: _Optional[int] = ..., complete: _Optional[bool] = ..., whole: _Optional[bool] = ..., ahead: _Optional[int] = ...) -> None: ...

class LogMessage(_message.Message):
    __slots__ = ("job_id", "site", "offset", "data", "first")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    site: str
    offset: int
    data: bytes
    first: int
    def __init__(self, job_id: _Optional[str] = ..., site: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., first: _Optional[int] = ...) -> None: ...

class LogReply(_message.Message):
    __slots__ = ("job_id", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("id", "all", "limit", "before", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    all: bool
    limit: int
    before: str
    state: str
    def __init__(self, id: _Optional[str] = ..., all: _Optional[bool] = ..., limit: _Optional[int] = ..., before: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("start", "follow", "limit", "what", "object", "who", "outcome", "last", "since", "until")
    START_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    start: int
    follow: bool
    limit: int
    what: str
    object: str
    who: str
    outcome: str
    last: int
    since: str
    until: str
    def __init__(self, start: _Optional[int] = ..., follow: _Optional[bool] = ..., limit: _Optional[int] = ..., what: _Optional[str] = ..., object: _Optional[str] = ..., who: _Optional[str] = ..., outcome: _Optional[str] = ..., last: _Optional[int] = ..., since: _Optional[str] = ..., until: _Optional[str] = ...) -> None: ...

class JobChange(_message.Message):
    __slots__ = ("job_id", "reason", "key", "not_after")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    key: str
    not_after: str
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class SiteOrder(_message.Message):
    __slots__ = ("name", "restart", "now", "reason", "key", "not_after")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    restart: bool
    now: bool
    reason: str
    key: str
    not_after: str
    def __init__(self, name: _Optional[str] = ..., restart: _Optional[bool] = ..., now: _Optional[bool] = ..., reason: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class CleanRequest(_message.Message):
    __slots__ = ("older_than_seconds", "dry_run", "key", "not_after")
    OLDER_THAN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    older_than_seconds: float
    dry_run: bool
    key: str
    not_after: str
    def __init__(self, older_than_seconds: _Optional[float] = ..., dry_run: _Optional[bool] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("submission", "signature", "chain")
    SUBMISSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    submission: bytes
    signature: bytes
    chain: bytes
    def __init__(self, submission: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., chain: _Optional[bytes] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("job_id", "key", "not_after", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    key: str
    not_after: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AppRequest(_message.Message):
    __slots__ = ("digest", "name", "key", "not_after")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    digest: str
    name: str
    key: str
    not_after: str
    def __init__(self, digest: _Optional[str] = ..., name: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("job_id", "site", "offset", "follow", "offsets", "tail")
    class OffsetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    site: str
    offset: int
    follow: bool
    offsets: _containers.ScalarMap[str, int]
    tail: int
    def __init__(self, job_id: _Optional[str] = ..., site: _Optional[str] = ..., offset: _Optional[int] = ..., follow: _Optional[bool] = ..., offsets: _Optional[_Mapping[str, int]] = ..., tail: _Optional[int] = ...) -> None: ...

class SeriesRequest(_message.Message):
    __slots__ = ("job_id", "offset", "follow")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    offset: int
    follow: bool
    def __init__(self, job_id: _Optional[str] = ..., offset: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class SeriesPart(_message.Message):
    __slots__ = ("offset", "lines")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    lines: bytes
    def __init__(self, offset: _Optional[int] = ..., lines: _Optional[bytes] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("job_id", "name", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class PartyChange(_message.Message):
    __slots__ = ("name", "org", "reason", "key", "not_after")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    org: str
    reason: str
    key: str
    not_after: str
    def __init__(self, name: _Optional[str] = ..., org: _Optional[str] = ..., reason: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class CertificateChange(_message.Message):
    __slots__ = ("target", "reason", "comment", "key", "not_after")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    target: str
    reason: str
    comment: str
    key: str
    not_after: str
    def __init__(self, target: _Optional[str] = ..., reason: _Optional[str] = ..., comment: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class InviteRequest(_message.Message):
    __slots__ = ("site", "org", "lifetime_seconds", "approval", "request", "key", "not_after")
    SITE_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    site: str
    org: str
    lifetime_seconds: float
    approval: bool
    request: bytes
    key: str
    not_after: str
    def __init__(self, site: _Optional[str] = ..., org: _Optional[str] = ..., lifetime_seconds: _Optional[float] = ..., approval: _Optional[bool] = ..., request: _Optional[bytes] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class InviteDecision(_message.Message):
    __slots__ = ("id", "approve", "fingerprint", "reason", "key", "not_after")
    ID_FIELD_NUMBER: _ClassVar[int]
    APPROVE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    approve: bool
    fingerprint: str
    reason: str
    key: str
    not_after: str
    def __init__(self, id: _Optional[str] = ..., approve: _Optional[bool] = ..., fingerprint: _Optional[str] = ..., reason: _Optional[str] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class PublishTrust(_message.Message):
    __slots__ = ("trust", "keys", "key", "not_after")
    TRUST_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    trust: TrustBundle
    keys: _containers.RepeatedCompositeFieldContainer[IssuingKey]
    key: str
    not_after: str
    def __init__(self, trust: _Optional[_Union[TrustBundle, _Mapping]] = ..., keys: _Optional[_Iterable[_Union[IssuingKey, _Mapping]]] = ..., key: _Optional[str] = ..., not_after: _Optional[str] = ...) -> None: ...

class IssuingKey(_message.Message):
    __slots__ = ("certificate", "private")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    private: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., private: _Optional[bytes] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("start_site", "start_workflow", "task", "answer", "saved", "quit", "site")
    START_SITE_FIELD_NUMBER: _ClassVar[int]
    START_WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    QUIT_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    start_site: StartSite
    start_workflow: StartWorkflow
    task: TaskOrder
    answer: SiteAnswer
    saved: RoundSaved
    quit: Quit
    site: str
    def __init__(self, start_site: _Optional[_Union[StartSite, _Mapping]] = ..., start_workflow: _Optional[_Union[StartWorkflow, _Mapping]] = ..., task: _Optional[_Union[TaskOrder, _Mapping]] = ..., answer: _Optional[_Union[SiteAnswer, _Mapping]] = ..., saved: _Optional[_Union[RoundSaved, _Mapping]] = ..., quit: _Optional[_Union[Quit, _Mapping]] = ..., site: _Optional[str] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("ready", "answer", "progress", "broadcast", "close", "finished", "failure", "resumed", "withdraw", "refuse", "site")
    READY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    answer: TaskAnswer
    progress: Progress
    broadcast: Broadcast
    close: CloseRound
    finished: Finished
    failure: Failure
    resumed: Resumed
    withdraw: Withdraw
    refuse: Refuse
    site: str
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., answer: _Optional[_Union[TaskAnswer, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., broadcast: _Optional[_Union[Broadcast, _Mapping]] = ..., close: _Optional[_Union[CloseRound, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., resumed: _Optional[_Union[Resumed, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., site: _Optional[str] = ...) -> None: ...

class StartSite(_message.Message):
    __slots__ = ("job_id", "site", "spec", "datasets", "statistics", "he_secret")
    class DatasetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    HE_SECRET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    site: str
    spec: bytes
    datasets: _containers.ScalarMap[str, str]
    statistics: bytes
    he_secret: bytes
    def __init__(self, job_id: _Optional[str] = ..., site: _Optional[str] = ..., spec: _Optional[bytes] = ..., datasets: _Optional[_Mapping[str, str]] = ..., statistics: _Optional[bytes] = ..., he_secret: _Optional[bytes] = ...) -> None: ...

class StartWorkflow(_message.Message):
    __slots__ = ("job_id", "spec", "sites", "state", "round", "model", "best")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    spec: bytes
    sites: _containers.RepeatedScalarFieldContainer[str]
    state: Payload
    round: int
    model: Payload
    best: Payload
    def __init__(self, job_id: _Optional[str] = ..., spec: _Optional[bytes] = ..., sites: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[Payload, _Mapping]] = ..., round: _Optional[int] = ..., model: _Optional[_Union[Payload, _Mapping]] = ..., best: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Resumed(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Quit(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Broadcast(_message.Message):
    __slots__ = ("task_id", "name", "round", "rounds", "expects", "model", "sites", "scalars", "extra", "requires", "extra_of", "optional")
    class ExtraOfEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EXPECTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    EXTRA_OF_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    name: str
    round: int
    rounds: int
    expects: str
    model: Payload
    sites: _containers.RepeatedScalarFieldContainer[str]
    scalars: bytes
    extra: Payload
    requires: _containers.RepeatedScalarFieldContainer[str]
    extra_of: _containers.MessageMap[str, Payload]
    optional: bool
    def __init__(self, task_id: _Optional[str] = ..., name: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., expects: _Optional[str] = ..., model: _Optional[_Union[Payload, _Mapping]] = ..., sites: _Optional[_Iterable[str]] = ..., scalars: _Optional[bytes] = ..., extra: _Optional[_Union[Payload, _Mapping]] = ..., requires: _Optional[_Iterable[str]] = ..., extra_of: _Optional[_Mapping[str, Payload]] = ..., optional: _Optional[bool] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Refuse(_message.Message):
    __slots__ = ("task_id", "site", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    site: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., site: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SiteAnswer(_message.Message):
    __slots__ = ("task_id", "site", "update", "absent", "last")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    site: str
    update: UpdateMessage
    absent: Failure
    last: bool
    def __init__(self, task_id: _Optional[str] = ..., site: _Optional[str] = ..., update: _Optional[_Union[UpdateMessage, _Mapping]] = ..., absent: _Optional[_Union[Failure, _Mapping]] = ..., last: _Optional[bool] = ...) -> None: ...

class CloseRound(_message.Message):
    __slots__ = ("round", "state", "metrics", "model", "best")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    round: int
    state: Payload
    metrics: _containers.ScalarMap[str, float]
    model: Payload
    best: Payload
    def __init__(self, round: _Optional[int] = ..., state: _Optional[_Union[Payload, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., model: _Optional[_Union[Payload, _Mapping]] = ..., best: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...

class RoundSaved(_message.Message):
    __slots__ = ("round", "model")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    round: int
    model: str
    def __init__(self, round: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("results", "reason")
    class ResultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    results: _containers.MessageMap[str, Payload]
    reason: str
    def __init__(self, results: _Optional[_Mapping[str, Payload]] = ..., reason: _Optional[str] = ...) -> None: ...
