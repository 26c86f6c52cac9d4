/* SPDX-License-Identifier: Apache-2.0
 * A libnvidia-ml.so.1 with two GPUs, for machines without one: only what flprov asks for.
 * Structures and numbers as in NVIDIA's nvml.h. The second card has no thermometer. */
#include <stdio.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_t;

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };

static int cards[2] = {0, 1};

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the fake"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index > 1) return INVALID;
    *handle = &cards[index];
    return SUCCESS;
}

static int number(void *handle) { return *(int *)handle; }

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int length) {
    snprintf(text, length, "GPU-fake-%d", number(handle));
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned int length) {
    (void)handle;
    snprintf(text, length, "NVIDIA Fake 100");
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    snprintf(text, length, "550.54.15");
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *found) {
    found->total = 8ULL << 30;
    found->used = number(handle) ? 0 : 3ULL << 30;
    found->free = found->total - found->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *found) {
    found->gpu = number(handle) ? 0 : 87;
    found->memory = 1;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, unsigned int sensor, unsigned int *found) {
    (void)sensor;
    if (number(handle)) return NOT_SUPPORTED;
    *found = 61;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *found) {
    unsigned int have = number(handle) ? 0 : 2;
    if (*count < have) { *count = have; return INSUFFICIENT_SIZE; }
    *count = have;
    for (unsigned int n = 0; n < have; n++) {
        memset(&found[n], 0, sizeof found[n]);
        found[n].pid = 4242 - n;
        found[n].used = 1ULL << 30;
    }
    return SUCCESS;
}
