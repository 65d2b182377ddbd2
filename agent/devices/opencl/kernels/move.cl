// Between the source model's layout, int8 or uint8 (flip 0x80), and blocks of four channels.

inline size_t model_offset(int c, int y, int x, int channels, int height, int width, int nhwc) {
    return nhwc ? ((size_t)y * width + x) * channels + c : ((size_t)c * height + y) * width + x;
}

kernel void pack(global const uchar *from, global uchar4 *to, int channels, int height, int width, int nhwc,
                 int flip) {
    const int x = get_global_id(0), y = get_global_id(1), blocks = (channels + 3) / 4;
    const int sample = get_global_id(2) / blocks, block = get_global_id(2) % blocks;
    if (x >= width || y >= height)
        return;
    from += (size_t)sample * channels * height * width;
    uchar lane[4];
    for (int i = 0; i < 4; i++) {
        const int c = 4 * block + i;
        lane[i] = c < channels ? from[model_offset(c, y, x, channels, height, width, nhwc)] ^ flip : 0;
    }
    to[((size_t)get_global_id(2) * height + y) * width + x] = (uchar4)(lane[0], lane[1], lane[2], lane[3]);
}

kernel void unpack(global const uchar *from, global uchar *to, int channels, int height, int width, int nhwc,
                   int flip) {
    const int x = get_global_id(0), y = get_global_id(1), blocks = (channels + 3) / 4;
    const int sample = get_global_id(2) / blocks, block = get_global_id(2) % blocks;
    if (x >= width || y >= height)
        return;
    from += (((size_t)get_global_id(2) * height + y) * width + x) * 4;
    to += (size_t)sample * channels * height * width;
    for (int i = 0; i < 4 && 4 * block + i < channels; i++)
        to[model_offset(4 * block + i, y, x, channels, height, width, nhwc)] = from[i] ^ flip;
}
