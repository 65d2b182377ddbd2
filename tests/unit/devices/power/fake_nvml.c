/* NVML as its API reference describes it, for tests: what it shows and how it fails is set through fake_*. */
#include <stdio.h>
#include <string.h>

typedef struct {
    unsigned long long millijoules;
    unsigned milliwatts;
    int energy_code, power_code;
} gpu;

static gpu gpus[4];
static unsigned count = 1;
static int init_code, handle_code;

int fake_count(unsigned n) { return (int)(count = n); }
int fake_init(int code) { return init_code = code; }
int fake_handle(int code) { return handle_code = code; }
int fake_energy(unsigned i, unsigned long long mj, int code) { gpus[i].millijoules = mj; return gpus[i].energy_code = code; }
int fake_power(unsigned i, unsigned mw, int code) { gpus[i].milliwatts = mw; return gpus[i].power_code = code; }

int nvmlInit_v2(void) { return init_code; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) {
    if (handle_code) return handle_code;
    if (i >= count) return 2;
    *device = &gpus[i];
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    if (size < 41) return 7;
    snprintf(text, size, "GPU-%08x-1111-2222-3333-444444444444", 0xa0 + (unsigned)((gpu *)device - gpus));
    return 0;
}
#ifndef WITHOUT_ENERGY
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
    *mj = ((gpu *)device)->millijoules;
    return ((gpu *)device)->energy_code;
}
#endif
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) {
    *mw = ((gpu *)device)->milliwatts;
    return ((gpu *)device)->power_code;
}
