// Convolution on GPUs and accelerators as an implicit matrix product: a work-item sums four output channels of a few
// pixels, as far from one another as its neighbours' reach, so that what neighbours read is in one piece.

#if !OVERLAID_CPU

#if OVERLAID_DOT
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define DOT(a, b) dot_4x8packed_ss_int(a, b)
#else
inline int DOT(uint a, uint b) {
    const int4 products = convert_int4(as_char4(a)) * convert_int4(as_char4(b));
    return products.s0 + products.s1 + products.s2 + products.s3;
}
#endif

// Weights of int8: for each of four outputs, four inputs in a word.
inline int4 narrow_sum(uint data, uint4 w) {
    return (int4)(DOT(data, w.s0), DOT(data, w.s1), DOT(data, w.s2), DOT(data, w.s3));
}

// Weights that leave int8.
inline int4 wide_sum(uint data, short16 w) {
    const int4 x = convert_int4(as_char4(data));
    const int4 a = x * convert_int4(w.s0123), b = x * convert_int4(w.s4567);
    const int4 c = x * convert_int4(w.s89ab), d = x * convert_int4(w.scdef);
    return (int4)(a.s0, b.s0, c.s0, d.s0) + (int4)(a.s1, b.s1, c.s1, d.s1) + (int4)(a.s2, b.s2, c.s2, d.s2) +
           (int4)(a.s3, b.s3, c.s3, d.s3);
}

// weights: [ceil(out/4)][kh][kw][ceil(in/4)][out: 4][in: 4]. `reach`: from one of the work-item's pixels to the next.
#define CONV(name, weights4, SUM, tile)                                                                          \
    kernel void name(global const uint *in, global char4 *out, global const weights4 *weights,                   \
                     global const int4 *bias, global const float4 *scale, int in_blocks, int in_h, int in_w,     \
                     int out_blocks, int out_h, int out_w, int kernel_h, int kernel_w, int stride_y,             \
                     int stride_x, int dilation_y, int dilation_x, int top, int left, int pad, int zero_point,   \
                     int low, int high, int reach) {                                                             \
        const int pixels = out_h * out_w, first = get_global_id(0);                                              \
        const int block = get_global_id(1);                                                                      \
        if (first >= reach || block >= out_blocks)                                                               \
            return;                                                                                              \
        in += (size_t)get_global_id(2) * in_blocks * in_h * in_w;                                                \
        weights += (size_t)block * kernel_h * kernel_w * in_blocks;                                              \
        int4 sums[tile];                                                                                         \
        int y[tile], x[tile];                                                                                    \
        EACH(i, tile) {                                                                                          \
            const int pixel = min(first + i * reach, pixels - 1);                                                \
            y[i] = pixel / out_w * stride_y - top;                                                               \
            x[i] = pixel % out_w * stride_x - left;                                                              \
            sums[i] = bias[block];                                                                               \
        }                                                                                                        \
        for (int ky = 0; ky < kernel_h; ky++)                                                                    \
            for (int kx = 0; kx < kernel_w; kx++) {                                                              \
                int at[tile];                                                                                    \
                EACH(i, tile) {                                                                                  \
                    const int iy = y[i] + ky * dilation_y, ix = x[i] + kx * dilation_x;                          \
                    at[i] = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w ? iy * in_w + ix : -1;                  \
                }                                                                                                \
                global const uint *plane = in;                                                                   \
                for (int c = 0; c < in_blocks; c++, plane += (size_t)in_h * in_w) {                              \
                    const weights4 w = *weights++;                                                               \
                    EACH(i, tile)                                                                                \
                        sums[i] += SUM(at[i] < 0 ? (uint)pad : plane[at[i]], w);                                 \
                }                                                                                                \
            }                                                                                                    \
        out += ((size_t)get_global_id(2) * out_blocks + block) * pixels;                                         \
        EACH(i, tile)                                                                                            \
            if (first + i * reach < pixels)                                                                      \
                out[first + i * reach] = requantise(sums[i], scale[block], zero_point, low, high);               \
    }

CONV(conv, uint4, narrow_sum, 4)
CONV(conv_wide, short16, wide_sum, 4)
CONV(conv_pixel, uint4, narrow_sum, 1)
CONV(conv_pixel_wide, short16, wide_sum, 1)
#endif
