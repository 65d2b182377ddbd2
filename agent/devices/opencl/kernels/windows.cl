// Layers in which a channel sees itself alone: depthwise convolution (weights of any width), and pooling.

#if OVERLAID_CPU
// A work-item's share of the input with its padding, in words: then no tap looks where it is. Where it does not fit,
// every tap does.
#define FIELD 4096

inline void fill_field(uint *field, global const uint *in, int in_h, int in_w, int top, int left, int height,
                       int width, uint pad) {
    const int from = clamp(-left, 0, width), to = clamp(in_w - left, from, width);
    for (int y = top; y < top + height; y++, field += width) {
        global const uint *row = in + (long)y * in_w + left;
        const bool inside = y >= 0 && y < in_h;
        const int first = inside ? from : width, last = inside ? to : width;
        for (int x = 0; x < first; x++)
            field[x] = pad;
        for (int x = first; x < last; x++)
            field[x] = row[x];
        for (int x = last; x < width; x++)
            field[x] = pad;
    }
}

inline chars field_pixels(const uint *at, int stride) {
    return AS_CHARS(stride == 1 ? vload4(0, at) : (uint4)(at[0], at[stride], at[2 * stride], at[3 * stride]));
}

#define PREPARE                                                                                                  \
    const int width = ((min(columns, out_w - x0) + 3) / 4 * 4 - 1) * stride_x + (kernel_w - 1) * dilation_x + 1; \
    const int height = (min(rows, out_h - y0) - 1) * stride_y + (kernel_h - 1) * dilation_y + 1;                 \
    const bool fits = (long)width * height <= FIELD;                                                             \
    uint field[FIELD];                                                                                           \
    if (fits)                                                                                                    \
        fill_field(field, in, in_h, in_w, y0 * stride_y - top, x0 * stride_x - left, height, width, pad);
#define FIELD_ROW(y, x, ky) (field + ((y - y0) * stride_y + ky * dilation_y) * width + (x - x0) * stride_x)
#else
#define PREPARE const bool fits = false;
#define FIELD_ROW(y, x, ky) 0
#define field_pixels(at, stride) (chars)0
#endif

// Of every window of a work-item's pixels: `start`, then for each of its taps `each` (of `data` and `tap`), then the
// result of `finish`.
#define WINDOWS(start, each, finish)                                                                             \
    const int x0 = get_global_id(0) * columns, y0 = get_global_id(1) * rows;                                     \
    in += (size_t)get_global_id(2) * in_h * in_w;                                                                \
    out += (size_t)get_global_id(2) * out_h * out_w;                                                             \
    PREPARE                                                                                                      \
    for (int y = y0; y < min(y0 + rows, out_h); y++)                                                             \
        for (int x = x0; x < min(x0 + columns, out_w); x += PIXELS) {                                            \
            start;                                                                                               \
            int tap = 0;                                                                                         \
            if (fits)                                                                                            \
                for (int ky = 0; ky < kernel_h; ky++) {                                                          \
                    const uint *row = FIELD_ROW(y, x, ky);                                                       \
                    for (int kx = 0; kx < kernel_w; kx++, tap++) {                                               \
                        const chars data = field_pixels(row + kx * dilation_x, stride_x);                        \
                        each;                                                                                    \
                    }                                                                                            \
                }                                                                                                \
            else                                                                                                 \
                for (int ky = 0; ky < kernel_h; ky++) {                                                          \
                    const int iy = y * stride_y - top + ky * dilation_y;                                         \
                    const int row_width = iy >= 0 && iy < in_h ? in_w : 0;                                       \
                    global const uint *row = in + (row_width ? (size_t)iy * in_w : 0);                           \
                    for (int kx = 0; kx < kernel_w; kx++, tap++) {                                               \
                        const int ix = x * stride_x - left + kx * dilation_x;                                    \
                        const chars data = load_pixels(row, ix, stride_x, row_width, pad);                       \
                        each;                                                                                    \
                    }                                                                                            \
                }                                                                                                \
            store_pixels(out + (size_t)y * out_w, x, out_w, finish);                                             \
        }

// weights: [ceil(C/4)][kh][kw][4], on CPUs once for each pixel of a vector.
kernel void depthwise(global const uint *in, global uint *out, global const LANES(short) *weights,
                      global const int4 *bias, global const float4 *scale, int blocks, int in_h, int in_w, int out_h,
                      int out_w, int columns, int rows, int kernel_h, int kernel_w, int stride_y, int stride_x,
                      int dilation_y, int dilation_x, int top, int left, int pad, int zero_point, int low, int high) {
    const int block = get_global_id(2) % blocks;
    weights += (size_t)block * kernel_h * kernel_w;
    const ints first = REPEAT(bias[block]);
    const floats factor = REPEAT(scale[block]);
    WINDOWS(ints sums = first, sums += TO_INTS(data) * TO_INTS(weights[tap]),
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
