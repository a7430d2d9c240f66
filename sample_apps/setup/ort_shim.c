/* Hands ONNX Runtime's C API on from the library that SLMKIT_ORT names.

   The JNI library of ONNX Runtime 1.17 asks for the symbol version VERS_1.17.0, which newer runtimes do not have. The
   API itself is versioned by OrtApiBase::GetApi(n), so that an old caller may be given a newer base. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *find(const char *name) {
    static void *runtime;
    const char *path = getenv("SLMKIT_ORT");
    if (!runtime && path) runtime = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *found = runtime ? dlsym(runtime, name) : NULL;
    if (!found) {
        fprintf(stderr, "SLMKIT_ORT=%s: %s\n", path ? path : "", path ? dlerror() : "not set");
        abort();
    }
    return found;
}

const void *OrtGetApiBase(void) { return ((const void *(*)(void))find(__func__))(); }

void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int arena) {
    return ((void *(*)(void *, int))find(__func__))(options, arena);
}
