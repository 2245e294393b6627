/* A plugin of QEMU's user emulation that counts executed instructions between calls of getppid, which programs make
 * after every inference with --bench-ms:
 *
 *     cc -O2 -shared -fPIC -o count.so tests/bench/count.c
 *     qemu-aarch64 -cpu cortex-a72 -plugin count.so,hot=20 -d plugin -D LOG PROGRAM --input X.f32 --bench-ms 1
 *
 * Prints one line of JSON for the last interval: instructions, of those fmla on vectors, and the blocks that were
 * executed most, with their address, executions and words. QEMU counts per block of translation, so the program must have one thread.
 * Debian's QEMU comes without the header of its plugins: what is used of version 1 of the interface is declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct plugin_block;
struct plugin_instruction;

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct plugin_block *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct plugin_block *, int operation, void *counter, uint64_t by);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct plugin_block *);
uint64_t qemu_plugin_tb_vaddr(const struct plugin_block *);
struct plugin_instruction *qemu_plugin_tb_get_insn(const struct plugin_block *, size_t);
const void *qemu_plugin_insn_data(const struct plugin_instruction *);
void qemu_plugin_outs(const char *);

enum { GETPPID_ON_AARCH64 = 173, ADD = 0 };

/* One translation of a block; a block that is translated again has several. */
struct block {
    uint64_t address, executed, at_last_mark, in_last_interval;
    size_t count, multiply_adds;
    uint32_t *words;
    struct block *next;
};

static struct block *blocks;
static size_t block_count, most_shown = 10;

/* fmla of vectors: by vector (three same) and by element. */
static bool is_multiply_add(uint32_t word) {
    return (word & 0xbfa0fc00) == 0x0e20cc00 || (word & 0xbf80f400) == 0x0f801000;
}

static void translated(plugin_id id, struct plugin_block *translation) {
    struct block *block = calloc(1, sizeof *block);
    (void)id;
    block->address = qemu_plugin_tb_vaddr(translation);
    block->count = qemu_plugin_tb_n_insns(translation);
    block->words = calloc(block->count, sizeof *block->words);
    for (size_t index = 0; index < block->count; index++) {
        memcpy(&block->words[index], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(translation, index)), 4);
        block->multiply_adds += is_multiply_add(block->words[index]);
    }
    block->next = blocks;
    blocks = block;
    block_count++;
    qemu_plugin_register_vcpu_tb_exec_inline(translation, ADD, &block->executed, 1);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != GETPPID_ON_AARCH64)
        return;
    for (struct block *block = blocks; block; block = block->next) {
        block->in_last_interval = block->executed - block->at_last_mark;
        block->at_last_mark = block->executed;
    }
}

static int by_weight(const void *left, const void *right) {
    const struct block *a = *(struct block *const *)left, *b = *(struct block *const *)right;
    uint64_t x = a->in_last_interval * a->count, y = b->in_last_interval * b->count;
    return (x < y) - (x > y);
}

static void ended(plugin_id id, void *unused) {
    struct block **sorted = calloc(block_count + 1, sizeof *sorted);
    uint64_t instructions = 0, multiply_adds = 0;
    size_t found = 0;
    char text[64];
    (void)id, (void)unused;
    for (struct block *block = blocks; block; block = block->next) {
        instructions += block->in_last_interval * block->count;
        multiply_adds += block->in_last_interval * block->multiply_adds;
        sorted[found++] = block;
    }
    qsort(sorted, found, sizeof *sorted, by_weight);
    snprintf(text, sizeof text, "{\"instructions\":%" PRIu64 ",", instructions);
    qemu_plugin_outs(text);
    snprintf(text, sizeof text, "\"multiply_adds\":%" PRIu64 ",\"hot\":[", multiply_adds);
    qemu_plugin_outs(text);
    for (size_t index = 0; index < found && index < most_shown; index++) {
        snprintf(text, sizeof text, "%s[%" PRIu64 ",%" PRIu64 ",\"", index ? "," : "", sorted[index]->address,
                 sorted[index]->in_last_interval);
        qemu_plugin_outs(text);
        for (size_t word = 0; word < sorted[index]->count; word++) {
            snprintf(text, sizeof text, "%08" PRIx32, sorted[index]->words[word]);
            qemu_plugin_outs(text);
        }
        qemu_plugin_outs("\"]");
    }
    qemu_plugin_outs("]}\n");
    free(sorted);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *machine, int count, char **options) {
    (void)machine;
    for (int index = 0; index < count; index++)
        if (strncmp(options[index], "hot=", 4) == 0)
            most_shown = strtoul(options[index] + 4, NULL, 10);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
