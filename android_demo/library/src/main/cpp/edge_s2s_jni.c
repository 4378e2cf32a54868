/*
 * io.edges2s.Native over edge_s2s.h, one function for each call of the C API: Java owns the order, the memory
 * of results and the time.
 *
 * Texts cross as UTF-8 in byte[], since JNI's own strings are another encoding. A failure of the core becomes
 * the exception that Native.exception makes of its status. A function that returns 0 or NULL has one pending.
 */
#define _POSIX_C_SOURCE 200809L

#include <jni.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "edge_s2s.h"

/* A model, and the pages that it reads if it came from a file descriptor. */
typedef struct opened_model {
    es2s_model *model;
    void *pages;
    size_t n_pages_bytes;
} opened_model;

static jclass native_class; /* a global reference, as the ids below need one */
static jmethodID make_exception, on_tokens;

static es2s_model *model_of(jlong handle) {
    return ((opened_model *)(intptr_t)handle)->model;
}

static es2s_session *session_of(jlong handle) {
    return (es2s_session *)(intptr_t)handle;
}

/* Whether the status is ES2S_OK; else there is an exception pending. */
static bool succeeds(JNIEnv *env, jint status, const char *message) {
    if (status == ES2S_OK) return true;
    const jsize n = (jsize)strlen(message);
    jbyteArray utf8 = (*env)->NewByteArray(env, n);
    if (!utf8) return false;
    (*env)->SetByteArrayRegion(env, utf8, 0, n, (const jbyte *)message);
    jthrowable exception = (*env)->CallStaticObjectMethod(env, native_class, make_exception, status, utf8);
    if ((*env)->ExceptionCheck(env)) return false;
    (*env)->Throw(env, exception);
    return false;
}

static bool ok(JNIEnv *env, es2s_status status) {
    return succeeds(env, status, status == ES2S_OK ? "" : es2s_last_error());
}

static void *allocate(JNIEnv *env, size_t size) {
    void *block = malloc(size > 0 ? size : 1);
    if (!block) succeeds(env, ES2S_OUT_OF_MEMORY, "jni: no memory for a copy of the arguments");
    return block;
}

/* A copy that ends in a zero byte. */
static char *copy_bytes(JNIEnv *env, jbyteArray array, size_t *n_out) {
    const jsize n = (*env)->GetArrayLength(env, array);
    char *bytes = allocate(env, (size_t)n + 1);
    if (!bytes) return NULL;
    (*env)->GetByteArrayRegion(env, array, 0, n, (jbyte *)bytes);
    bytes[n] = '\0';
    *n_out = (size_t)n;
    return bytes;
}

static int32_t *copy_ints(JNIEnv *env, jintArray array, jsize n) {
    int32_t *ints = allocate(env, (size_t)n * sizeof *ints);
    if (ints) (*env)->GetIntArrayRegion(env, array, 0, n, ints);
    return ints;
}

static jintArray new_ints(JNIEnv *env, const int32_t *ints, size_t n) {
    jintArray array = (*env)->NewIntArray(env, (jsize)n);
    if (array) (*env)->SetIntArrayRegion(env, array, 0, (jsize)n, ints);
    return array;
}

/* ---- models ---- */

static jlong hold(JNIEnv *env, opened_model opened) {
    opened_model *held = allocate(env, sizeof *held);
    if (held) {
        *held = opened;
        return (jlong)(intptr_t)held;
    }
    es2s_model_free(opened.model);
    if (opened.pages) munmap(opened.pages, opened.n_pages_bytes);
    return 0;
}

static jlong load_path(JNIEnv *env, jclass self, jbyteArray path_utf8, jint n_threads) {
    (void)self;
    size_t n;
    char *path = copy_bytes(env, path_utf8, &n);
    if (!path) return 0;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = n_threads;
    opened_model opened = {0};
    const es2s_status status = es2s_model_load(path, &params, &opened.model);
    free(path);
    return ok(env, status) ? hold(env, opened) : 0;
}

/* Pages of a part of a file. A part that the file does not have would be a SIGBUS, later. */
static bool map_part(JNIEnv *env, int fd, int64_t offset, int64_t length, opened_model *opened,
                     int64_t *in_page_out) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return succeeds(env, ES2S_IO, "fd: expected the descriptor of a regular file");
    if (offset < 0 || length < 1 || offset > st.st_size || length > st.st_size - offset)
        return succeeds(env, ES2S_IO,
                        "fd: expected offset and length of a part of the file; an asset has them only if "
                        "it is stored uncompressed");
    const int64_t in_page = offset % sysconf(_SC_PAGESIZE);
    if ((uint64_t)length > SIZE_MAX - (uint64_t)in_page || (off_t)(offset - in_page) != offset - in_page)
        return succeeds(env, ES2S_IO, "fd: larger than the address space");
    const size_t size = (size_t)(length + in_page);
    void *pages = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, (off_t)(offset - in_page));
    if (pages == MAP_FAILED) return succeeds(env, ES2S_IO, "fd: cannot be mapped");
    opened->pages = pages;
    opened->n_pages_bytes = size;
    *in_page_out = in_page;
    return true;
}

static jlong load_fd(JNIEnv *env, jclass self, jint fd, jlong offset, jlong length, jint n_threads) {
    (void)self;
    opened_model opened = {0};
    int64_t in_page;
    if (!map_part(env, fd, offset, length, &opened, &in_page)) return 0;
    es2s_model_params params;
    es2s_model_params_init(&params);
    params.n_threads = n_threads;
    const char *data = (const char *)opened.pages + in_page;
    const es2s_status status = es2s_model_load_memory(data, (size_t)length, &params, &opened.model);
    if (status != ES2S_OK) munmap(opened.pages, opened.n_pages_bytes);
    return ok(env, status) ? hold(env, opened) : 0;
}

static void free_model(JNIEnv *env, jclass self, jlong handle) {
    (void)env, (void)self;
    opened_model *opened = (opened_model *)(intptr_t)handle;
    es2s_model_free(opened->model);
    if (opened->pages) munmap(opened->pages, opened->n_pages_bytes);
    free(opened);
}

static jbyteArray isa(JNIEnv *env, jclass self, jlong handle) {
    (void)self;
    const char *name = es2s_model_isa(model_of(handle));
    jbyteArray array = (*env)->NewByteArray(env, (jsize)strlen(name));
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)strlen(name), (const jbyte *)name);
    return array;
}

/* max_source_len, max_target_len, the bundle's num_beams and max_new_tokens. */
static jintArray limits(JNIEnv *env, jclass self, jlong handle) {
    (void)self;
    es2s_model_dims dims = {.struct_size = sizeof dims};
    es2s_generate_params params;
    if (!ok(env, es2s_model_get_dims(model_of(handle), &dims))) return NULL;
    es2s_generate_params_init(model_of(handle), &params);
    const int32_t found[] = {dims.max_source_len, dims.max_target_len, params.num_beams,
                             params.max_new_tokens};
    return new_ints(env, found, sizeof found / sizeof *found);
}

/* ---- texts ---- */

/* At most `capacity` ids; n_out[0] is how many there are. */
static jintArray tokenize(JNIEnv *env, jclass self, jlong handle, jbyteArray utf8, jint capacity,
                          jintArray n_out) {
    (void)self;
    size_t n_bytes, n = 0;
    jintArray array = NULL;
    char *text = copy_bytes(env, utf8, &n_bytes);
    int32_t *ids = text ? allocate(env, (size_t)capacity * sizeof *ids) : NULL;
    if (ids && ok(env, es2s_model_tokenize(model_of(handle), text, n_bytes, ids, (size_t)capacity, &n))) {
        const jint found = n < INT_MAX ? (jint)n : INT_MAX;
        (*env)->SetIntArrayRegion(env, n_out, 0, 1, &found);
        array = new_ints(env, ids, found < capacity ? (size_t)found : (size_t)capacity);
    }
    free(ids);
    free(text);
    return array;
}

static jbyteArray detokenize(JNIEnv *env, jclass self, jlong handle, jintArray ids_array, jint n) {
    (void)self;
    int32_t *ids = copy_ints(env, ids_array, n);
    if (!ids) return NULL;
    char *text = NULL;
    size_t n_bytes = 0;
    bool done = ok(env, es2s_model_detokenize(model_of(handle), ids, (size_t)n, NULL, 0, &n_bytes));
    if (done) done = (text = allocate(env, n_bytes)) != NULL;
    if (done)
        done = ok(env, es2s_model_detokenize(model_of(handle), ids, (size_t)n, text, n_bytes, &n_bytes));
    jbyteArray array = done ? (*env)->NewByteArray(env, (jsize)n_bytes) : NULL;
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)n_bytes, (const jbyte *)text);
    free(text);
    free(ids);
    return array;
}

/* ---- sessions ---- */

static jlong create_session(JNIEnv *env, jclass self, jlong handle, jint num_beams, jint n_source,
                            jint n_target) {
    (void)self;
    es2s_generate_params defaults;
    es2s_generate_params_init(model_of(handle), &defaults);
    es2s_session_params params;
    es2s_session_params_init(&params);
    params.max_beams = num_beams;
    params.max_source_len = n_source;
    params.max_target_len = n_target;
    params.max_draft_tokens = defaults.prompt_lookup_num_tokens;
    es2s_session *session = NULL;
    return ok(env, es2s_session_create(model_of(handle), &params, &session)) ? (jlong)(intptr_t)session : 0;
}

static void free_session(JNIEnv *env, jclass self, jlong session) {
    (void)env, (void)self;
    es2s_session_free(session_of(session));
}

static jlong session_memory(JNIEnv *env, jclass self, jlong session) {
    (void)env, (void)self;
    return (jlong)es2s_session_memory(session_of(session));
}

/* Whether a rule of the bundle, or prompt lookup, reads the tokens of the source. */
static bool reads_source_ids(const es2s_model *model) {
    es2s_generate_params params;
    es2s_model_dims dims = {.struct_size = sizeof dims};
    es2s_generate_params_init(model, &params);
    const bool may_copy = params.prompt_lookup_num_tokens > 0 &&
                          es2s_model_get_dims(model, &dims) == ES2S_OK &&
                          dims.source_vocab_size <= dims.vocab_size;
    return may_copy || params.encoder_repetition_penalty != 1 || params.encoder_no_repeat_ngram_size > 0;
}

/* Whether the source was read; false after a cancel or the deadline. cancel: a direct buffer of an int. */
static jboolean encode(JNIEnv *env, jclass self, jlong handle, jlong session, jintArray ids_array,
                       jlong deadline_ms, jobject cancel) {
    (void)self;
    const jsize n = (*env)->GetArrayLength(env, ids_array);
    int32_t *ids = copy_ints(env, ids_array, n);
    if (!ids) return JNI_FALSE;
    const volatile int32_t *flag = (*env)->GetDirectBufferAddress(env, cancel);
    es2s_status status = es2s_session_encode(session_of(session), 0, ids, n, deadline_ms, flag, NULL);
    const bool is_cancelled = status == ES2S_CANCELLED;
    if (status == ES2S_OK && reads_source_ids(model_of(handle)))
        status = es2s_session_set_source_ids(session_of(session), 0, ids, n);
    free(ids);
    return !is_cancelled && ok(env, status) ? JNI_TRUE : JNI_FALSE;
}

typedef struct listener {
    JNIEnv *env;
    jobject object; /* Native.OnTokens */
} listener;

/* Non-zero, which cancels, if the listener throws: the exception stays pending until generate returns. */
static int call_listener(void *user, int32_t row, const int32_t *tokens, int32_t n) {
    (void)row;
    const listener *l = user;
    jintArray array = new_ints(l->env, tokens, (size_t)n);
    if (!array) return 1;
    (*l->env)->CallVoidMethod(l->env, l->object, on_tokens, array);
    const bool has_thrown = (*l->env)->ExceptionCheck(l->env);
    (*l->env)->DeleteLocalRef(l->env, array);
    return has_thrown;
}

/* The tokens. logprobs_out: float[max_new_tokens]; finish_reason_out: int[1]. */
static jintArray generate(JNIEnv *env, jclass self, jlong handle, jlong session, jint num_beams,
                          jint max_new_tokens, jlong deadline_ms, jobject cancel, jobject object,
                          jfloatArray logprobs_out, jintArray finish_reason_out) {
    (void)self;
    listener listening = {env, object};
    es2s_generate_params params;
    es2s_generate_params_init(model_of(handle), &params);
    params.num_beams = num_beams;
    params.num_return_sequences = 1;
    params.max_new_tokens = max_new_tokens;
    params.deadline_ms = deadline_ms;
    params.cancel = (*env)->GetDirectBufferAddress(env, cancel);
    params.on_tokens = call_listener;
    params.user = &listening;
    int32_t n = 0, finish_reason = 0;
    float score;
    jintArray array = NULL;
    int32_t *tokens = allocate(env, (size_t)max_new_tokens * sizeof *tokens);
    float *logprobs = tokens ? allocate(env, (size_t)max_new_tokens * sizeof *logprobs) : NULL;
    if (logprobs) {
        const es2s_status status =
            es2s_session_generate(session_of(session), &params, tokens, &n, &score, logprobs, &finish_reason);
        if (!(*env)->ExceptionCheck(env) && ok(env, status)) {
            (*env)->SetFloatArrayRegion(env, logprobs_out, 0, max_new_tokens, logprobs);
            (*env)->SetIntArrayRegion(env, finish_reason_out, 0, 1, &finish_reason);
            array = new_ints(env, tokens, (size_t)n);
        }
    }
    free(logprobs);
    free(tokens);
    return array;
}

/* Binds all functions at once, so that a name or signature that does not fit fails when the library is
 * loaded. */
JNIEXPORT jint JNI_OnLoad(JavaVM *vm, void *reserved) {
    (void)reserved;
    static const JNINativeMethod methods[] = {
        {"loadPath", "([BI)J", (void *)load_path},
        {"loadFd", "(IJJI)J", (void *)load_fd},
        {"freeModel", "(J)V", (void *)free_model},
        {"isa", "(J)[B", (void *)isa},
        {"limits", "(J)[I", (void *)limits},
        {"tokenize", "(J[BI[I)[I", (void *)tokenize},
        {"detokenize", "(J[II)[B", (void *)detokenize},
        {"createSession", "(JIII)J", (void *)create_session},
        {"freeSession", "(J)V", (void *)free_session},
        {"sessionMemory", "(J)J", (void *)session_memory},
        {"encode", "(JJ[IJLjava/nio/ByteBuffer;)Z", (void *)encode},
        {"generate", "(JJIIJLjava/nio/ByteBuffer;Lio/edges2s/Native$OnTokens;[F[I)[I", (void *)generate},
    };
    JNIEnv *env;
    if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    jclass native = (*env)->FindClass(env, "io/edges2s/Native");
    if (!native) return JNI_ERR;
    native_class = (*env)->NewGlobalRef(env, native);
    if (!native_class) return JNI_ERR;
    make_exception = (*env)->GetStaticMethodID(env, native, "exception", "(I[B)Ljava/lang/Throwable;");
    if (!make_exception) return JNI_ERR;
    jclass listener_class = (*env)->FindClass(env, "io/edges2s/Native$OnTokens");
    if (!listener_class) return JNI_ERR;
    on_tokens = (*env)->GetMethodID(env, listener_class, "onTokens", "([I)V");
    if (!on_tokens) return JNI_ERR;
    if ((*env)->RegisterNatives(env, native, methods, (jint)(sizeof methods / sizeof *methods)) != JNI_OK)
        return JNI_ERR;
    return JNI_VERSION_1_6;
}
