/* SPDX-License-Identifier: Apache-2.0
 * A libnvidia-ml.so.1 for machines without one: only what flprov asks for, with structures and numbers as
 * in NVIDIA's nvml.h. The cards are described by the text file that FAKE_NVML names, which is read again
 * at every call, so that a test can plug, fill and break cards while the agent runs. Lines:
 *
 *   fail 9              the driver itself answers with this error
 *   card GPU-1 24576    a card, and its memory in MiB; what follows is about it
 *   used 300            MiB that no process is told to hold
 *   process 4711 9216   a process on it, and its MiB; -1: the driver does not tell
 *   util 87             percent; without this line: not supported
 *   temp 61             degrees; likewise
 *   lost                it has fallen off the bus: every question about it ends with "GPU is lost" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_t;

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, LOST = 15 };
enum { CARDS = 8, PROCESSES = 16 };

typedef struct {
    char uuid[80];
    long total, used;
    int util, temp, lost;
    unsigned int count;
    process_t processes[PROCESSES];
} card_t;

static card_t cards[CARDS];
static int handles[CARDS] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Reads the file; returns the number of cards, or minus the error that the driver is to answer with. */
static int look(void) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return -DRIVER_NOT_LOADED;
    char line[256], word[16], uuid[80];
    long a, b;
    int count = 0, error = 0;
    while (fgets(line, sizeof line, file)) {
        card_t *card = count ? &cards[count - 1] : NULL;
        if (sscanf(line, "fail %ld", &a) == 1) error = (int)a;
        else if (sscanf(line, "card %79s %ld", uuid, &a) == 2 && count < CARDS) {
            card = &cards[count++];
            memset(card, 0, sizeof *card);
            snprintf(card->uuid, sizeof card->uuid, "%s", uuid);
            card->total = a;
            card->util = card->temp = -1;
        } else if (!card) continue;
        else if (sscanf(line, "used %ld", &a) == 1) card->used += a;
        else if (sscanf(line, "process %ld %ld", &a, &b) == 2 && card->count < PROCESSES) {
            process_t *process = &card->processes[card->count++];
            process->pid = (unsigned int)a;
            process->used = b < 0 ? ~0ULL : (unsigned long long)b << 20;
            if (b > 0) card->used += b;
        } else if (sscanf(line, "util %ld", &a) == 1) card->util = (int)a;
        else if (sscanf(line, "temp %ld", &a) == 1) card->temp = (int)a;
        else if (sscanf(line, "%15s", word) == 1 && !strcmp(word, "lost")) card->lost = 1;
    }
    fclose(file);
    return error ? -error : count;
}

/* The card behind a handle, as it is now. */
static int find(void *handle, card_t **card) {
    int number = *(int *)handle, count = look();
    if (count < 0) return -count;
    if (number >= count) return LOST;
    *card = &cards[number];
    return cards[number].lost ? LOST : SUCCESS;
}

int nvmlInit_v2(void) { int count = look(); return count < 0 ? -count : SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    return code == LOST ? "GPU is lost" : code == NOT_SUPPORTED ? "Not Supported" : "an error of the fake";
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    int found = look();
    if (found < 0) return -found;
    *count = (unsigned int)found;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index >= CARDS) return INVALID;
    card_t *card;
    *handle = &handles[index];
    return find(*handle, &card);
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int length) {
    card_t *card;
    int error = find(handle, &card);
    if (!error) snprintf(text, length, "%s", card->uuid);
    return error;
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
    card_t *card;
    int error = find(handle, &card);
    if (error) return error;
    found->total = (unsigned long long)card->total << 20;
    found->used = (unsigned long long)card->used << 20;
    found->free = found->total - found->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *found) {
    card_t *card;
    int error = find(handle, &card);
    if (error || card->util < 0) return error ? error : NOT_SUPPORTED;
    found->gpu = (unsigned int)card->util;
    found->memory = 1;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, unsigned int sensor, unsigned int *found) {
    card_t *card;
    int error = find(handle, &card);
    (void)sensor;
    if (error || card->temp < 0) return error ? error : NOT_SUPPORTED;
    *found = (unsigned int)card->temp;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *found) {
    card_t *card;
    int error = find(handle, &card);
    if (error) return error;
    unsigned int room = *count;
    *count = card->count;
    if (room < card->count) return INSUFFICIENT_SIZE;
    memcpy(found, card->processes, card->count * sizeof *found);
    return SUCCESS;
}
