// Layers in which a channel sees itself alone: depthwise convolution (weights of any width), and pooling.

// Of every window of a work-item's pixels: `start`, then for each of its pixels `each` (of `data`), then `finish`.
// `last` when the next pixel's tap is `tap`.
#define WINDOWS(start, each, finish)                                                                             \
    const int x0 = get_global_id(0) * columns, y0 = get_global_id(1) * rows;                                     \
    in += (size_t)get_global_id(2) * in_h * in_w;                                                                \
    out += (size_t)get_global_id(2) * out_h * out_w;                                                             \
    for (int y = y0; y < min(y0 + rows, out_h); y++)                                                             \
        for (int x = x0; x < min(x0 + columns, out_w); x += PIXELS) {                                            \
            start;                                                                                               \
            int tap = 0;                                                                                         \
            for (int ky = 0; ky < kernel_h; ky++) {                                                              \
                const int iy = y * stride_y - top + ky * dilation_y;                                             \
                const int row_width = iy >= 0 && iy < in_h ? in_w : 0;                                           \
                global const uint *row = in + (row_width ? (size_t)iy * in_w : 0);                               \
                for (int kx = 0; kx < kernel_w; kx++, tap++) {                                                   \
                    const int ix = x * stride_x - left + kx * dilation_x;                                        \
                    const chars data = load_pixels(row, ix, stride_x, row_width, pad);                           \
                    each;                                                                                        \
                }                                                                                                \
            }                                                                                                    \
            store_pixels(out + (size_t)y * out_w, x, out_w, finish);                                             \
        }

kernel void depthwise(global const uint *in, global uint *out, global const short4 *weights, global const int4 *bias,
                      global const float4 *scale, int blocks, int in_h, int in_w, int out_h, int out_w, int columns,
                      int rows, int kernel_h, int kernel_w, int stride_y, int stride_x, int dilation_y, int dilation_x,
                      int top, int left, int pad, int zero_point, int low, int high) {
    const int block = get_global_id(2) % blocks;
    weights += (size_t)block * kernel_h * kernel_w;
    const ints first = REPEAT(bias[block]);
    const floats factor = REPEAT(scale[block]);
    WINDOWS(ints sums = first, sums += TO_INTS(data) * TO_INTS(REPEAT(weights[tap])),
            requantise(sums, factor, zero_point, low, high))
}

kernel void pool_max(global const uint *in, global uint *out, int in_h, int in_w, int out_h, int out_w, int columns,
                     int rows, int kernel_h, int kernel_w, int stride_y, int stride_x, int dilation_y, int dilation_x,
                     int top, int left, int pad, int low, int high) {
    WINDOWS(chars highest = -128, highest = max(highest, data), min(max(highest, (chars)(char)low), (chars)(char)high))
}

// `scale`: the bits of a float.
kernel void pool_average(global const uint *in, global uint *out, int in_h, int in_w, int out_h, int out_w,
                         int columns, int rows, int kernel_h, int kernel_w, int stride_y, int stride_x, int dilation_y,
                         int dilation_x, int top, int left, int pad, int bias, int scale, int zero_point, int low,
                         int high) {
    WINDOWS(ints sums = bias, sums += TO_INTS(data),
            requantise(sums, (floats)as_float(scale), zero_point, low, high))
}
