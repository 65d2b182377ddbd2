// Between the source model's layout, int8 or uint8 (`flip` 0x80), and blocks of four channels. The loops over a row
// are plain, so that compilers for CPUs make vectors of them.

#define MOVE(name, FROM, TO, ROW)                                                                                \
    kernel void name(global const FROM *restrict from, global TO *restrict to, int channels, int height,         \
                     int width, int nhwc, int flip, int columns, int rows) {                                     \
        const int blocks = (channels + 3) / 4, sample = get_global_id(2) / blocks;                               \
        const int block = get_global_id(2) % blocks, last = min(3, channels - 4 * block - 1);                    \
        const int x0 = get_global_id(0) * columns, y0 = get_global_id(1) * rows;                                 \
        const int count = min(columns, width - x0), pixel = nhwc ? channels : 1;                                 \
        const size_t plane = (size_t)height * width, step = nhwc ? 1 : plane; /* from channel to channel */      \
        for (int y = y0; y < min(y0 + rows, height); y++) {                                                      \
            const size_t at = (size_t)y * width + x0, word = get_global_id(2) * plane + at;                      \
            const size_t model = sample * plane * channels + 4 * block * step + at * pixel;                      \
            ROW                                                                                                  \
        }                                                                                                        \
    }

// What lies beyond the last channel repeats it.
#define PACK_ROW(pixel)                                                                                          \
    for (int x = 0; x < count; x++)                                                                              \
        words[x] = ((uint)a[x * pixel] | (uint)b[x * pixel] << 8 | (uint)c[x * pixel] << 16 |                    \
                    (uint)d[x * pixel] << 24) ^ flips;
MOVE(pack, uchar, uint, {
    global const uchar *a = from + model;
    global const uchar *b = a + min(1, last) * step;
    global const uchar *c = a + min(2, last) * step;
    global const uchar *d = a + last * step;
    global uint *words = to + word;
    const uint flips = flip * 0x01010101u;
    if (nhwc)
        PACK_ROW(channels)
    else
        PACK_ROW(1)
})

#define UNPACK_ROW(pixel)                                                                                        \
    for (int x = 0; x < count; x++)                                                                              \
        bytes[x * pixel] = (uchar)(words[x] >> shift ^ flip);
MOVE(unpack, uint, uchar, {
    global const uint *words = from + word;
    for (int i = 0; i <= last; i++) {
        global uchar *bytes = to + model + i * step;
        const int shift = 8 * i;
        if (nhwc)
            UNPACK_ROW(channels)
        else
            UNPACK_ROW(1)
    }
})
