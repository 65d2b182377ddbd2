// Between the source model's layout, int8 or uint8 (`flip` 0x80), and blocks of four channels.

#define MOVE(name, FROM, TO, body)                                                                               \
    kernel void name(global const FROM *from, global TO *to, int channels, int height, int width, int nhwc,      \
                     int flip, int columns, int rows) {                                                          \
        const int blocks = (channels + 3) / 4, sample = get_global_id(2) / blocks;                               \
        const int block = get_global_id(2) % blocks, here = min(4, channels - 4 * block);                        \
        const int x0 = get_global_id(0) * columns, y0 = get_global_id(1) * rows;                                 \
        const size_t plane = (size_t)height * width, step = nhwc ? 1 : plane; /* from channel to channel */      \
        const size_t first = sample * plane * channels + 4 * block * step;                                       \
        for (int y = y0; y < min(y0 + rows, height); y++)                                                        \
            for (int x = x0; x < min(x0 + columns, width); x++) {                                                \
                const size_t pixel = (size_t)y * width + x, model = first + pixel * (nhwc ? channels : 1);       \
                const size_t word = get_global_id(2) * plane + pixel;                                            \
                body                                                                                             \
            }                                                                                                    \
    }

MOVE(pack, uchar, uint, {
    uint four = 0;
    for (int i = 0; i < here; i++)
        four |= (uint)(uchar)(from[model + i * step] ^ flip) << (8 * i);
    to[word] = as_uint((uchar4)(four, four >> 8, four >> 16, four >> 24));
})

MOVE(unpack, uint, uchar, {
    const uchar4 four = as_uchar4(from[word]) ^ (uchar)flip;
    to[model] = four.s0;
    if (here > 1)
        to[model + step] = four.s1;
    if (here > 2)
        to[model + 2 * step] = four.s2;
    if (here > 3)
        to[model + 3 * step] = four.s3;
})
