/* Preloaded, makes OpenCL calls fail while a file exists: OVERLAID_TEST_CL_FAULT names it.
 *
 * Its lines are "function code [bytes]": that function returns that status code; clCreateBuffer only for buffers of at
 * least so many bytes. The loader that pyopencl brings is not in the global scope, so it is found where it is mapped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fault(const char *function, size_t bytes) {
    const char *path = getenv("OVERLAID_TEST_CL_FAULT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], name[64];
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        int code;
        unsigned long least = 0;
        if (sscanf(line, "%63s %d %lu", name, &code, &least) >= 2 && !strcmp(name, function) && bytes >= least)
            found = code;
    }
    if (file) fclose(file);
    return found;
}

static void *real(const char *function) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    void *found = NULL;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        char *path = strchr(line, '/');
        if (!path || !strstr(path, "libOpenCL")) continue;
        path[strcspn(path, "\n")] = 0;
        void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        found = library ? dlsym(library, function) : NULL;
    }
    if (maps) fclose(maps);
    if (!found) abort();
    return found;
}

#define CALL(type, function, ...)                                                                                      \
    static type ours;                                                                                                  \
    if (!ours) ours = (type)real(function);                                                                            \
    return ours(__VA_ARGS__)

typedef int (*enqueue)(void *, void *, unsigned, const size_t *, const size_t *, const size_t *, unsigned, void *const *,
                       void **);

int clEnqueueNDRangeKernel(void *queue, void *kernel, unsigned dimensions, const size_t *offset, const size_t *global,
                           const size_t *local, unsigned count, void *const *events, void **event) {
    int code = fault("clEnqueueNDRangeKernel", 0);
    if (code) return code;
    CALL(enqueue, "clEnqueueNDRangeKernel", queue, kernel, dimensions, offset, global, local, count, events, event);
}

typedef int (*wait)(unsigned, void *const *);

int clWaitForEvents(unsigned count, void *const *events) {
    int code = fault("clWaitForEvents", 0);
    if (code) return code;
    CALL(wait, "clWaitForEvents", count, events);
}

typedef void *(*create_buffer)(void *, unsigned long, size_t, void *, int *);

void *clCreateBuffer(void *context, unsigned long flags, size_t size, void *host, int *status) {
    int code = fault("clCreateBuffer", size);
    if (code) {
        if (status) *status = code;
        return NULL;
    }
    CALL(create_buffer, "clCreateBuffer", context, flags, size, host, status);
}

typedef void *(*create_context)(const void *, unsigned, void *const *, void *, void *, int *);

void *clCreateContext(const void *properties, unsigned count, void *const *devices, void *notify, void *user,
                      int *status) {
    int code = fault("clCreateContext", 0);
    if (code) {
        if (status) *status = code;
        return NULL;
    }
    CALL(create_context, "clCreateContext", properties, count, devices, notify, user, status);
}

typedef int (*build)(void *, unsigned, void *const *, const char *, void *, void *);

int clBuildProgram(void *program, unsigned count, void *const *devices, const char *options, void *notify, void *user) {
    int code = fault("clBuildProgram", 0);
    if (code) return code;
    CALL(build, "clBuildProgram", program, count, devices, options, notify, user);
}

typedef int (*platforms)(unsigned, void **, unsigned *);

int clGetPlatformIDs(unsigned entries, void **found, unsigned *count) {
    int code = fault("clGetPlatformIDs", 0);
    if (code) return code;
    CALL(platforms, "clGetPlatformIDs", entries, found, count);
}
