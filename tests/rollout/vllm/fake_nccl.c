/* A stand-in for libnccl and for the CUDA driver, for tests without GPUs.

   "Devices" are host memory and the network is Unix sockets. Rank 0 has a non-blocking
   communicator, as NCCL defines it: calls return ncclInProgress, ncclCommGetAsyncError
   finishes them, and what a stream has to do goes on whenever the stream is queried.
   All other ranks block in their calls, as vLLM's workers do. What NCCL forbids is an
   error here: another call before the last one is done, a thread without a device,
   ranks that do not call the same. Every call is written into a log. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OK = 0, CUDA_ERROR = 1, SYSTEM = 2, INVALID = 4, USAGE = 5, REMOTE = 6, BUSY = 7 };
enum { NOT_READY = 600, MOST = 8 };
enum { NOTHING, JOIN, REDUCE, BROADCAST };

typedef struct { char internal[128]; } Id;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;
typedef struct { long kind, count, dtype; } Header;

typedef struct {
    int rank, size, state, work, listener, joined;
    int peers[MOST];       /* sockets: of rank 0 to the others, of others to rank 0 */
    Header header;
    char *data;
    size_t bytes, sent[MOST], got[MOST];
    float parts[MOST];
    struct sockaddr_un place;
} Comm;
typedef struct { Comm *comm; } Stream;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char log_path[256], fail_name[64];
static int fail_after, fail_times, fail_result, counter;
static __thread void *context;

static void note(int rank, const char *call, long count, long dtype) {
    pthread_mutex_lock(&mutex);
    FILE *file = fopen(log_path, "a");
    if (file) {
        fprintf(file, "%d %s %ld %ld\n", rank, call, count, dtype);
        fclose(file);
    }
    pthread_mutex_unlock(&mutex);
}

/* For tests: a new log, and no faults. */
void fake_reset(const char *path) {
    snprintf(log_path, sizeof log_path, "%s", path);
    fail_times = 0;
}

/* For tests: let so many calls of rank 0 to this fail, after so many good ones. */
void fake_fail(const char *name, int after, int times, int result) {
    snprintf(fail_name, sizeof fail_name, "%s", name);
    fail_after = after;
    fail_times = times;
    fail_result = result;
}

static int fault(const char *name) {
    if (strcmp(name, fail_name) || fail_after-- > 0) return OK;
    return fail_times-- > 0 ? fail_result : OK;
}

static size_t width(long dtype) { return dtype == 7 ? 4 : dtype == 9 ? 2 : 0; }

int ncclGetVersion(int *version) { *version = 22907; return OK; }

const char *ncclGetErrorString(int result) {
    return result == SYSTEM ? "unhandled system error"
         : result == USAGE ? "invalid usage"
         : result == REMOTE ? "remote process exited or there was a network error"
         : "some error";
}

static struct sockaddr_un address(const Id *id) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    snprintf(place.sun_path, sizeof place.sun_path, "%.100s", id->internal);
    return place;
}

/* The id is a place to meet; its end is bytes that base64 writes as + and /. */
int ncclGetUniqueId(Id *id) {
    memset(id, 0xFB, sizeof *id);
    memset(id->internal + 120, 0xFF, 8);
    pthread_mutex_lock(&mutex);
    snprintf(id->internal, 100, "/tmp/fake-nccl-%d-%d", getpid(), counter++);
    pthread_mutex_unlock(&mutex);
    note(0, "ncclGetUniqueId", 0, 0);
    return context ? fault("ncclGetUniqueId") : CUDA_ERROR;
}

/* Rank 0 enters. */
int ncclCommInitRankConfig(Comm **made, int size, Id id, int rank, Config *config) {
    note(rank, "ncclCommInitRankConfig", size, 0);
    if (!context) return CUDA_ERROR;
    if (rank || size > MOST || config->size != 24 || config->magic != 0xcafebeef
        || config->version != 21400 || config->blocking
        || (unsigned char)id.internal[127] != 0xFF) return INVALID;
    int failed = fault("ncclCommInitRankConfig");
    if (failed) return failed;
    Comm *comm = calloc(1, sizeof *comm);
    comm->size = size;
    comm->place = address(&id);
    comm->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(comm->listener, (void *)&comm->place, sizeof comm->place)
        || listen(comm->listener, MOST)) return SYSTEM;
    comm->work = JOIN;
    comm->state = BUSY;
    *made = comm;
    return BUSY;
}

static int whole(int peer, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t count = read(peer, (char *)data + done, bytes - done);
        if (count <= 0) return REMOTE;
        done += count;
    }
    return OK;
}

/* Another rank enters; it returns when all have. */
int ncclCommInitRank(Comm **made, int size, Id id, int rank) {
    struct sockaddr_un place = address(&id);
    Comm *comm = calloc(1, sizeof *comm);
    char go;
    note(rank, "ncclCommInitRank", size, 0);
    comm->rank = rank;
    comm->size = size;
    comm->peers[0] = socket(AF_UNIX, SOCK_STREAM, 0);
    *made = comm;
    for (int i = 0; connect(comm->peers[0], (void *)&place, sizeof place); i++) {
        if (i == 5000) return SYSTEM;
        usleep(1000);
    }
    return whole(comm->peers[0], &go, 1);
}

/* Let rank 0 do what can be done now: OK when all is, BUSY, or an error. */
static int join(Comm *comm) {
    int peer = accept(comm->listener, NULL, NULL);
    if (peer >= 0) comm->peers[comm->joined++] = peer;
    if (comm->joined < comm->size - 1) return BUSY;
    for (int i = 0; i < comm->joined; i++)
        if (send(comm->peers[i], "g", 1, MSG_NOSIGNAL) != 1) return REMOTE;
    comm->work = NOTHING;
    return OK;
}

static int put(int peer, const void *data, size_t bytes, size_t *done) {
    ssize_t count = send(peer, (const char *)data + *done, bytes - *done,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN ? BUSY : REMOTE;
    *done += count;
    return *done < bytes ? BUSY : OK;
}

static int get(int peer, void *data, size_t bytes, size_t *done) {
    ssize_t count = recv(peer, (char *)data + *done, bytes - *done, MSG_DONTWAIT);
    if (!count) return REMOTE;
    if (count < 0) return errno == EAGAIN ? BUSY : REMOTE;
    *done += count;
    return *done < bytes ? BUSY : OK;
}

/* Rank 0's part: everybody gets the header first and compares it with its own call. A
   broadcast is over when all have answered one byte. */
static int work(Comm *comm) {
    size_t start = sizeof comm->header;
    int busy = 0;
    for (int i = 0; i < comm->size - 1; i++) {
        int peer = comm->peers[i], result = OK;
        if (comm->sent[i] < start)
            result = put(peer, &comm->header, start, &comm->sent[i]);
        if (result == OK && comm->work == BROADCAST && comm->sent[i] >= start) {
            size_t done = comm->sent[i] - start;
            char answer;
            if (done < comm->bytes) {
                result = put(peer, comm->data, comm->bytes, &done);
                comm->sent[i] = start + done;
            }
            if (result == OK && !comm->got[i])
                result = get(peer, &answer, 1, &comm->got[i]);
        } else if (result == OK && comm->got[i] < sizeof(float)) {
            result = get(peer, &comm->parts[i], sizeof(float), &comm->got[i]);
        }
        if (result == BUSY) busy = 1;
        else if (result) return result;
    }
    if (busy) return BUSY;
    if (comm->work == REDUCE) {
        float sum;
        memcpy(&sum, comm->data, sizeof sum);
        for (int i = 0; i < comm->size - 1; i++) sum += comm->parts[i];
        memcpy(comm->data, &sum, sizeof sum);
        for (int i = 0; i < comm->size - 1; i++)
            if (send(comm->peers[i], &sum, sizeof sum, MSG_NOSIGNAL) != sizeof sum)
                return REMOTE;
    }
    comm->work = NOTHING;
    return OK;
}

int ncclCommGetAsyncError(Comm *comm, int *state) {
    if (comm->state == BUSY) comm->state = comm->work == JOIN ? join(comm) : OK;
    *state = comm->state;
    return OK;
}

int cuStreamQuery(Stream *stream) {
    Comm *comm = stream->comm;
    if (!comm || comm->work == NOTHING) return 0;
    int result = work(comm);
    if (result == OK) return 0;
    if (result != BUSY) comm->state = result;
    return NOT_READY;
}

static int collect(Comm *comm, const char *name, long kind, const void *from, void *to,
                   size_t count, int dtype, Stream *stream) {
    note(comm->rank, name, count, dtype);
    comm->header = (Header){kind, count, dtype};
    comm->bytes = count * width(dtype);
    if (!comm->rank) {
        int failed = fault(name);
        if (failed) return failed;
        if (!context) return CUDA_ERROR;
        if (comm->state || comm->work || from != to || !comm->bytes) return USAGE;
        memset(comm->sent, 0, sizeof comm->sent);
        memset(comm->got, 0, sizeof comm->got);
        comm->data = to;
        comm->work = kind;
        stream->comm = comm;
        return comm->state = BUSY;
    }
    Header header;
    int peer = comm->peers[0];
    if (whole(peer, &header, sizeof header)) return REMOTE;
    if (memcmp(&header, &comm->header, sizeof header)) return USAGE;
    if (kind == REDUCE && send(peer, from, comm->bytes, MSG_NOSIGNAL) < 0) return REMOTE;
    if (whole(peer, to, comm->bytes)) return REMOTE;
    if (kind == BROADCAST && send(peer, "a", 1, MSG_NOSIGNAL) != 1) return REMOTE;
    return OK;
}

int ncclAllReduce(const void *from, void *to, size_t count, int dtype, int how,
                  Comm *comm, Stream *stream) {
    if (how || count != 1 || dtype != 7) return INVALID;
    return collect(comm, "ncclAllReduce", REDUCE, from, to, count, dtype, stream);
}

int ncclBroadcast(const void *from, void *to, size_t count, int dtype, int root,
                  Comm *comm, Stream *stream) {
    if (root) return INVALID;
    return collect(comm, "ncclBroadcast", BROADCAST, from, to, count, dtype, stream);
}

int ncclCommAbort(Comm *comm) {
    note(comm->rank, "ncclCommAbort", 0, 0);
    int count = comm->rank ? 1 : comm->joined;
    for (int i = 0; i < count; i++) close(comm->peers[i]);
    if (!comm->rank) {
        close(comm->listener);
        unlink(comm->place.sun_path);
    }
    free(comm);
    return OK;
}

int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDevicePrimaryCtxRetain(void **made, int device) {
    *made = (void *)(long)(device + 1);
    return 0;
}
int cuCtxSetCurrent(void *given) { context = given; return 0; }
int cuStreamCreate(Stream **made, unsigned flags) {
    *made = calloc(1, sizeof **made);
    return flags == 1 ? 0 : INVALID;
}
int cuStreamDestroy_v2(Stream *stream) { free(stream); return 0; }
