/* Hands one input to a running cluster, several times, and prints the largest score.
 *
 *     cargo build --release
 *     cc classify.c target/release/libpartita_client.a -lpthread -ldl -lm -o classify
 *     ./classify PLAN_HASH INPUT_SOCKET OUTPUT_SOCKET INPUT_FILE OUTPUTS
 *
 * The file holds the model's input as raw little-endian float32; OUTPUTS is how many scores come out. */
#include "partita.h"

#include <stdio.h>
#include <stdlib.h>

enum { TIMES = 5, MOST_BYTES = 1 << 24 };

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "usage: %s PLAN_HASH INPUT_SOCKET OUTPUT_SOCKET INPUT_FILE OUTPUTS\n", words[0]);
        return 2;
    }
    char *input = malloc(MOST_BYTES);
    FILE *file = fopen(words[4], "rb");
    if (input == NULL || file == NULL) {
        perror(words[4]);
        return 1;
    }
    size_t input_bytes = fread(input, 1, MOST_BYTES, file);
    fclose(file);
    size_t outputs = strtoul(words[5], NULL, 10);
    float *scores = calloc(outputs, sizeof *scores);

    partita_client *client = NULL;
    int error = partita_connect(strtoull(words[1], NULL, 16), words[2], words[3], &client);
    for (int time = 0; error == 0 && time < TIMES; time++) {
        error = partita_submit(client, input, input_bytes);
    }
    for (int time = 0; error == 0 && time < TIMES; time++) {
        partita_record record;
        error = partita_next(client, scores, outputs * sizeof *scores, &record);
        if (error == 0 && record.outcome < PARTITA_LATE) {
            size_t largest = 0;
            for (size_t index = 1; index < outputs; index++) {
                if (scores[index] > scores[largest]) largest = index;
            }
            printf("class %zu, score %.7f\n", largest, scores[largest]);
        } else if (error == 0) {
            printf("no answer: outcome %u\n", record.outcome);
        }
    }
    partita_close(client);
    free(scores);
    free(input);
    if (error != 0) fprintf(stderr, "%s: %s\n", words[2], partita_error(error));
    return error != 0;
}
