/*
 * A bundle as the core reads it: the files of a zip or of a folder are found; a zip whose parts do not fit
 * together is refused, and nothing is ever read, or said to be a file, beyond its end.
 */
#define _POSIX_C_SOURCE 200809L

#include "bundle_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check_status.h"

enum { LOCAL = 30, CENTRAL = 46, END = 22, MAX_SIZE = 16384 };

/* ---- a zip, part by part ---- */

typedef struct zip {
    uint8_t bytes[MAX_SIZE], directory[MAX_SIZE / 2];
    size_t size, directory_size;
    uint32_t n_entries;
} zip;

static void put(uint8_t *at, uint32_t value, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* An uncompressed file; `gap` bytes of extra field before its contents. */
static void add_file(zip *z, const char *name, const char *contents, size_t gap) {
    const size_t n_name = strlen(name), n = strlen(contents);
    uint8_t *local = z->bytes + z->size, *entry = z->directory + z->directory_size;
    memcpy(local, "PK\3\4", 4);
    put(local + 18, (uint32_t)n, 4);
    put(local + 22, (uint32_t)n, 4);
    put(local + 26, (uint32_t)n_name, 2);
    put(local + 28, (uint32_t)gap, 2);
    memcpy(local + LOCAL, name, n_name);
    memcpy(local + LOCAL + n_name + gap, contents, n);
    memcpy(entry, "PK\1\2", 4);
    put(entry + 20, (uint32_t)n, 4);
    put(entry + 24, (uint32_t)n, 4);
    put(entry + 28, (uint32_t)n_name, 2);
    put(entry + 42, (uint32_t)z->size, 4);
    memcpy(entry + CENTRAL, name, n_name);
    z->size += LOCAL + n_name + gap + n;
    z->directory_size += CENTRAL + n_name;
    z->n_entries++;
}

/* Adds the directory and the end. */
static void finish(zip *z) {
    const size_t start = z->size;
    memcpy(z->bytes + start, z->directory, z->directory_size);
    uint8_t *end = z->bytes + start + z->directory_size;
    memcpy(end, "PK\5\6", 4);
    put(end + 8, z->n_entries, 2);
    put(end + 10, z->n_entries, 2);
    put(end + 12, (uint32_t)z->directory_size, 4);
    put(end + 16, (uint32_t)start, 4);
    z->size = start + z->directory_size + END;
}

/* manifest.json, decoder.weights, encoder.weights and tokenizer.table */
static zip whole_bundle(void) {
    zip z = {.size = 0};
    add_file(&z, "manifest.json", "{}", 0);
    add_file(&z, "decoder.weights", "decoder", 5);
    add_file(&z, "encoder.weights", "encoder weights", 0);
    add_file(&z, "tokenizer.table", "table", 63);
    finish(&z);
    return z;
}

/* The bytes end before an unreadable page. */
static es2s_status read_copy(const void *bytes, size_t size, es2s_bundle_file *bundle) {
    uint8_t *copy = check_alloc(size);
    memcpy(copy, bytes, size);
    *bundle = (es2s_bundle_file){0};
    const es2s_status status = es2s_bundle_file_read(copy, size, bundle);
    const es2s_span spans[] = {bundle->decoder, bundle->encoder, bundle->tokenizer, bundle->manifest};
    for (size_t i = 0; i < 4; i++)
        if (spans[i].data) {
            const size_t at = (size_t)((const uint8_t *)spans[i].data - copy);
            CHECK(at <= size && spans[i].size <= size - at);
        }
    CHECK(status == ES2S_OK ? bundle->decoder.data != NULL : bundle->decoder.data == NULL);
    return status;
}

static void refused(const zip *z, const char *text) {
    es2s_bundle_file bundle;
    REFUSES(ES2S_BAD_FORMAT, text, read_copy(z->bytes, z->size, &bundle));
}

static int holds(es2s_span span, const char *contents) {
    return span.size == strlen(contents) && span.data && memcmp(span.data, contents, span.size) == 0;
}

/* ---- tests ---- */

static void the_files_of_a_zip_are_found(void) {
    es2s_bundle_file bundle;
    zip z = whole_bundle();
    SUCCEEDS(read_copy(z.bytes, z.size, &bundle));
    CHECK(holds(bundle.decoder, "decoder"));
    CHECK(holds(bundle.encoder, "encoder weights"));
    CHECK(holds(bundle.tokenizer, "table"));
    CHECK(bundle.is_bundle && holds(bundle.manifest, "{}"));

    z = (zip){.size = 0};
    add_file(&z, "decoder.weights.old", "other", 0);
    add_file(&z, "decoder.weights", "decoder", 0);
    finish(&z);
    SUCCEEDS(read_copy(z.bytes, z.size, &bundle));
    CHECK(holds(bundle.decoder, "decoder") && !bundle.encoder.data && !bundle.tokenizer.data);
    CHECK(bundle.is_bundle && !bundle.manifest.data);
}

static void what_is_no_zip_is_taken_for_a_decoder(void) {
    es2s_bundle_file bundle;
    SUCCEEDS(read_copy("es2swts", 7, &bundle));
    CHECK(holds(bundle.decoder, "es2swts") && !bundle.is_bundle);
    SUCCEEDS(read_copy("P", 1, &bundle));
    CHECK(holds(bundle.decoder, "P"));
}

static void a_zip_whose_parts_do_not_fit_is_refused(void) {
    const zip whole = whole_bundle();
    const size_t start = whole.size - END - whole.directory_size, second = LOCAL + 13 + 2;
    const size_t entry = start + CENTRAL + 13; /* of the second file */
    const struct {
        size_t at;
        uint32_t value;
        size_t n_bytes;
        const char *text;
    } changes[] = {
        {whole.size - END, 0, 4, "the end record of a zip"},
        {whole.size - END + 10, 0, 2, "1..65 entries"},
        {whole.size - END + 10, 66, 2, "1..65 entries"},
        {whole.size - END + 16, (uint32_t)(whole.size - END + 1), 4, "entries and their directory"},
        {whole.size - END + 16, 0xFFFFFFFF, 4, "entries and their directory"},
        {whole.size - END + 16, (uint32_t)start - 1, 4, "a directory entry at"},
        {whole.size - END + 16, (uint32_t)start + 1, 4, "a directory entry at"},
        {whole.size - END + 10, 5, 2, "a directory entry at"},
        {whole.size - END + 10, 3, 2, "nothing between its parts"},
        {entry, 0, 4, "a directory entry at"},
        {entry + 28, 65, 2, "a name of up to 64 bytes"},
        {entry + 28, 0xFFFF, 2, "a name of up to 64 bytes"},
        {entry + 42, (uint32_t)second + 1, 4, "a file at byte"},
        {entry + 42, 0xFFFFFFFF, 4, "a file at byte"},
        {second, 0, 4, "a file at byte"},
        {second + 8, 8, 2, "uncompressed"}, /* deflate, say both or one of them */
        {entry + 10, 8, 2, "uncompressed"},
        {second + 18, 6, 4, "as its entry says"},
        {second + 22, 6, 4, "as its entry says"},
        {second + 26, 14, 2, "as its entry says"},
        {second + LOCAL, 'D', 1, "as its entry says"},
        {second + 28, 0xFFFF, 2, "to end before the directory"},
        {second + 28, 6, 2, "a file at byte"}, /* where the third does not begin */
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        zip z = whole;
        check_case("change=%zu", i);
        put(z.bytes + changes[i].at, changes[i].value, changes[i].n_bytes);
        refused(&z, changes[i].text);
    }
}

static void a_size_that_both_places_agree_on_stays_within_the_zip(void) {
    static const uint32_t sizes[] = {8, 0x1000, 0x7FFFFFFF, 0xFFFFFFFF};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        zip z = {.size = 0};
        add_file(&z, "decoder.weights", "decoder", 0);
        put(z.bytes + 18, sizes[i], 4);
        put(z.bytes + 22, sizes[i], 4);
        put(z.directory + 24, sizes[i], 4);
        finish(&z);
        check_case("size=%u", sizes[i]);
        refused(&z, "to end before the directory");
    }
}

static void a_last_file_without_room_is_refused(void) {
    zip z = {.size = 0};
    add_file(&z, "decoder.weights", "decoder", 0);
    add_file(&z, "x", "", 0);
    z.size -= LOCAL + 1 - 10; /* ten bytes of what should stand before it */
    finish(&z);
    refused(&z, "a file at byte");
    z = (zip){.size = 0};
    add_file(&z, "decoder.weights", "decoder", 0);
    add_file(&z, "x", "", 0);
    z.size -= 1; /* nothing of its name */
    finish(&z);
    refused(&z, "as its entry says");
}

static void a_name_twice_and_a_zip_without_a_decoder_are_refused(void) {
    zip z = {.size = 0};
    add_file(&z, "decoder.weights", "decoder", 0);
    add_file(&z, "decoder.weights", "another", 0);
    finish(&z);
    refused(&z, "each name once");
    z = (zip){.size = 0};
    add_file(&z, "encoder.weights", "encoder", 0);
    finish(&z);
    refused(&z, "expected decoder.weights, found no such file");
}

static void every_cut_zip_is_refused(void) {
    const zip whole = whole_bundle();
    for (size_t size = 2; size < whole.size; size++) {
        zip z = whole;
        check_case("cut to %zu bytes", size);
        z.size = size;
        refused(&z, "the end record of a zip");
    }
}

/* read_copy() looks at what is accepted. */
static void a_zip_with_changed_bytes_never_crashes(void) {
    const zip whole = whole_bundle();
    es2s_bundle_file bundle;
    int n_accepted = 0, n = 0;
    for (size_t at = 0; at < whole.size; at++)
        for (unsigned bit = 0; bit < 8; bit++, n++) {
            zip z = whole;
            check_case("byte=%zu bit=%u", at, bit);
            z.bytes[at] ^= (uint8_t)(1u << bit);
            n_accepted += read_copy(z.bytes, z.size, &bundle) == ES2S_OK;
        }
    for (int i = 0; i < 3000; i++, n++) {
        static const uint32_t edges[] = {0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF};
        zip z = whole;
        const size_t at = check_random() % (whole.size - 4);
        check_case("byte=%zu i=%d", at, i);
        put(z.bytes + at, edges[check_random() % 6], 1u << check_random() % 3);
        n_accepted += read_copy(z.bytes, z.size, &bundle) == ES2S_OK;
    }
    CHECK(n_accepted > 0 && n_accepted < n);
}

static void write_file(const char *folder, const char *name, const void *data, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
}

static void remove_file(const char *folder, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
}

static void a_folder_and_a_file_are_opened(void) {
    char folder[] = "/tmp/es2s_check_XXXXXX", path[256];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/bundle.es2s", folder);
    es2s_bundle_file bundle;
    REFUSES(ES2S_IO, "decoder.weights", es2s_bundle_file_open(folder, &bundle));
    write_file(folder, "decoder.weights", "decoder", 7);
    SUCCEEDS(es2s_bundle_file_open(folder, &bundle));
    CHECK(holds(bundle.decoder, "decoder") && !bundle.encoder.data && !bundle.tokenizer.data);
    es2s_bundle_file_close(&bundle);
    write_file(folder, "encoder.weights", "encoder", 7);
    write_file(folder, "tokenizer.table", "", 0);
    REFUSES(ES2S_IO, "tokenizer.table: the file is empty", es2s_bundle_file_open(folder, &bundle));
    write_file(folder, "tokenizer.table", "table", 5);
    write_file(folder, "manifest.json", "{}", 2);
    SUCCEEDS(es2s_bundle_file_open(folder, &bundle));
    CHECK(holds(bundle.encoder, "encoder") && holds(bundle.tokenizer, "table"));
    CHECK(bundle.is_bundle && holds(bundle.manifest, "{}"));
    es2s_bundle_file_close(&bundle);
    es2s_bundle_file_close(&bundle); /* is empty by now */

    const zip z = whole_bundle();
    REFUSES(ES2S_IO, "bundle.es2s", es2s_bundle_file_open(path, &bundle));
    write_file(folder, "bundle.es2s", z.bytes, z.size);
    SUCCEEDS(es2s_bundle_file_open(path, &bundle));
    CHECK(holds(bundle.decoder, "decoder") && holds(bundle.tokenizer, "table"));
    es2s_bundle_file_close(&bundle);
    write_file(folder, "bundle.es2s", z.bytes, z.size - 1);
    REFUSES(ES2S_BAD_FORMAT, "incomplete", es2s_bundle_file_open(path, &bundle));

    static const char *const names[] = {"decoder.weights", "encoder.weights", "tokenizer.table",
                                        "manifest.json", "bundle.es2s"};
    for (size_t i = 0; i < 5; i++)
        remove_file(folder, names[i]);
    CHECK(rmdir(folder) == 0);
}

/* A folder that can be named in 4095 bytes, and its files cannot. */
static void a_path_that_is_too_long_is_refused(void) {
    char path[4090] = "/";
    for (size_t i = 1; i < sizeof path - 1; i += 2)
        memcpy(path + i, "./", 2);
    es2s_bundle_file bundle;
    REFUSES(ES2S_IO, "a path of up to 4096 bytes", es2s_bundle_file_open(path, &bundle));
}

int main(int argc, char **argv) {
    static const check_test tests[] = {
        {"the_files_of_a_zip_are_found", the_files_of_a_zip_are_found, 0},
        {"what_is_no_zip_is_taken_for_a_decoder", what_is_no_zip_is_taken_for_a_decoder, 0},
        {"a_zip_whose_parts_do_not_fit_is_refused", a_zip_whose_parts_do_not_fit_is_refused, 0},
        {"a_size_that_both_places_agree_on_stays_within_the_zip",
         a_size_that_both_places_agree_on_stays_within_the_zip, 0},
        {"a_last_file_without_room_is_refused", a_last_file_without_room_is_refused, 0},
        {"a_name_twice_and_a_zip_without_a_decoder_are_refused",
         a_name_twice_and_a_zip_without_a_decoder_are_refused, 0},
        {"every_cut_zip_is_refused", every_cut_zip_is_refused, 0},
        {"a_zip_with_changed_bytes_never_crashes", a_zip_with_changed_bytes_never_crashes, 0},
        {"a_folder_and_a_file_are_opened", a_folder_and_a_file_are_opened, 0},
        {"a_path_that_is_too_long_is_refused", a_path_that_is_too_long_is_refused, 0},
    };
    return check_main(argc, argv, tests, sizeof tests / sizeof *tests);
}
