/* Hands inputs to a running Partita cluster and takes its answers. See classify.c for a program that does.
 *
 * Inputs and outputs are bytes: each tensor little-endian, from a multiple of 8, in the order of report.json (`model.inputs`,
 * `model.outputs`). A client may be used by one thread at a time. All functions but the last two give 0, or an error that
 * partita_error() says in words.
 *
 * When a device ends, partita_next() gives PARTITA_LOST for an input that was under way there: nobody can say what became
 * of it. The same client goes on when the device is there again; until then partita_submit() waits, as long as an input
 * may take. */
#ifndef PARTITA_H
#define PARTITA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct partita_client partita_client;

/* What became of an input. */
enum partita_outcome {
    PARTITA_FULL = 0,    /* the whole network's answer */
    PARTITA_EXIT = 1,    /* an early exit's answer */
    PARTITA_VARIANT = 2, /* a smaller network's answer */
    PARTITA_LATE = 3,    /* none within the budget */
    PARTITA_FAILED = 4   /* none: devices that are needed were away, or it was stopped */
};

/* The one error that is no reason to give up: the next input may be handed in. */
enum { PARTITA_LOST = 10 };

typedef struct {
    uint32_t outcome;  /* enum partita_outcome; there is no answer from PARTITA_LATE on */
    uint32_t route;    /* 0 for the whole network, or the number of the smaller one */
    int32_t exit;      /* number of the exit that answered, or -1 */
    float confidence;  /* how sure the exit was, or 0 */
    uint32_t tries;    /* how often it was tried */
    uint64_t took_us;  /* microseconds from its acceptance */
} partita_record;

/* Connects to the sockets of the devices that hold input and output; NULL for the output if it is the same device.
 * `plan_hash` is report.json's `plan.hash`, 16 hexadecimal digits. */
int partita_connect(uint64_t plan_hash, const char *input_socket, const char *output_socket, partita_client **client);

/* Says how long inputs from now on may take, in microseconds; 60 s if nobody does. */
int partita_set_budget(partita_client *client, uint64_t microseconds);

/* Hands an input in and does not wait; several may be under way. */
int partita_submit(partita_client *client, const void *input, size_t input_bytes);

/* Waits for what became of the oldest input that was handed in. The output is written unless there is none. */
int partita_next(partita_client *client, void *output, size_t output_bytes, partita_record *record);

/* One input and its answer; nothing else may be under way. */
int partita_infer(partita_client *client, const void *input, size_t input_bytes, void *output, size_t output_bytes,
                  partita_record *record);

/* The next input finds states of zero, where the model keeps any. */
int partita_reset_states(partita_client *client);

/* Writes the counters of the device that holds the input, as Prometheus reads them, ended by a null byte; what does not fit
 * is left out. */
int partita_status(partita_client *client, char *text, size_t text_bytes);

/* Ends the connections; the devices go on. NULL is allowed. */
void partita_close(partita_client *client);

/* An error in words, which stay where they are. */
const char *partita_error(int error);

#ifdef __cplusplus
}
#endif
#endif
