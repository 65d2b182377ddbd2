// Convolution as an implicit matrix product: a work-item sums four output channels of one pixel.

#define CONV(name, weight4, SUM)                                                                                       \
    kernel void name(global const uint *in, global char4 *out, global const weight4 *weights, global const int4 *bias, \
                     global const float4 *scale, int in_blocks, int in_h, int in_w, int out_blocks, int out_h,         \
                     int out_w, int kernel_h, int kernel_w, int stride_y, int stride_x, int dilation_y,                \
                     int dilation_x, int top, int left, int pad, int zero_point, int low, int high) {                  \
        const int x = get_global_id(0), y = get_global_id(1);                                                          \
        const int sample = get_global_id(2) / out_blocks, block = get_global_id(2) % out_blocks;                       \
        if (x >= out_w || y >= out_h)                                                                                  \
            return;                                                                                                    \
        in += (size_t)sample * in_blocks * in_h * in_w;                                                                \
        weights += (size_t)block * in_blocks * kernel_h * kernel_w;                                                    \
        int4 sums = bias[block];                                                                                       \
        for (int c = 0; c < in_blocks; c++)                                                                            \
            for (int ky = 0; ky < kernel_h; ky++)                                                                      \
                for (int kx = 0; kx < kernel_w; kx++) {                                                                \
                    const int iy = y * stride_y - top + ky * dilation_y, ix = x * stride_x - left + kx * dilation_x;   \
                    const bool inside = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w;                                  \
                    const uint data = inside ? in[((size_t)c * in_h + iy) * in_w + ix] : (uint)pad;                    \
                    const weight4 w = *weights++;                                                                      \
                    sums += SUM(data, w);                                                                              \
                }                                                                                                      \
        out[((size_t)get_global_id(2) * out_h + y) * out_w + x] =                                                      \
            requantise(sums, scale[block], zero_point, low, high);                                                     \
    }

// Weights of int8: for each of four outputs, four inputs in a word.
inline int4 narrow_sum(uint data, uint4 w) {
    return (int4)(DOT(data, w.s0), DOT(data, w.s1), DOT(data, w.s2), DOT(data, w.s3));
}

// Weights that leave int8.
inline int4 wide_sum(uint data, short16 w) {
    const int4 x = convert_int4(as_char4(data));
    const int4 a = x * convert_int4(w.s0123), b = x * convert_int4(w.s4567);
    const int4 c = x * convert_int4(w.s89ab), d = x * convert_int4(w.scdef);
    return (int4)(a.s0 + a.s1 + a.s2 + a.s3, b.s0 + b.s1 + b.s2 + b.s3, c.s0 + c.s1 + c.s2 + c.s3,
                  d.s0 + d.s1 + d.s2 + d.s3);
}

CONV(conv, uint4, narrow_sum)
CONV(conv_wide, short16, wide_sum)
