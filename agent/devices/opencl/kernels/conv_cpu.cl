// Convolution on CPUs as an implicit matrix product, in floats: whole numbers whose sums, over so many inputs at a time
// (`chunk`), floats hold exactly. So it does not matter whether and where they are contracted or reordered.

#if OVERLAID_CPU
#pragma OPENCL FP_CONTRACT ON

#define TILE 6      // pixels: with 16 outputs they fill the registers of AVX2 and NEON
#define GROUP 4     // blocks of 16 outputs for which a work-item reads its pixels once
#define MOST 128    // words of `chunk`

// Where the first input of each of the tile's windows lies; whether the windows follow one another in a row.
typedef struct {
    int y[TILE], x[TILE];
    bool row;
} corners;

// The words of one tap for all pixels, from input block `from` to `to`, as floats.
#define PACK(panel, tile)                                                                                        \
    const int row_y = corner.y[0] + ky * dilation_y, row_x = corner.x[0] + kx * dilation_x;                      \
    if (corner.row && row_y >= 0 && row_y < in_h && row_x >= 0 && row_x + (tile - 1) * stride_x < in_w) {        \
        global const uint *p = in + ((size_t)from * in_h + row_y) * in_w + row_x;                                \
        for (int c = from; c < to; c++, p += (size_t)in_h * in_w, panel += 4 * tile)                             \
            if (stride_x == 1) {                                                                                 \
                vstore16(convert_float16(as_char16(vload4(0, p))), 0, panel);                                    \
                vstore8(convert_float8(as_char8(vload2(0, p + 4))), 0, panel + 16);                              \
            } else                                                                                               \
                EACH(i, tile) vstore4(convert_float4(as_char4(p[i * stride_x])), i, panel);                      \
    } else {                                                                                                     \
        int at[tile];                                                                                            \
        EACH(i, tile) {                                                                                          \
            const int iy = corner.y[i] + ky * dilation_y, ix = corner.x[i] + kx * dilation_x;                    \
            at[i] = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w ? iy * in_w + ix : -1;                          \
        }                                                                                                        \
        global const uint *plane = in + (size_t)from * in_h * in_w;                                              \
        for (int c = from; c < to; c++, plane += (size_t)in_h * in_w, panel += 4 * tile)                         \
            EACH(i, tile) {                                                                                      \
                const uint word = at[i] < 0 ? (uint)pad : plane[at[i]];                                          \
                vstore4(convert_float4(as_char4(word)), i, panel);                                               \
            }                                                                                                    \
    }

// Sums that are made beside one another: of each pixel, or of one pixel four, so that none waits for the last.
#define PARTS(tile) (tile == 1 ? 4 : tile)

// A work-item makes a tile of pixels of up to `span` blocks of 16 outputs.
// weights: [ceil(out/16)][words][in: 4][out: 16], a word being four inputs of one tap; words run over taps, then blocks.
#define CONV(name, weights16, tile)                                                                              \
    kernel void name(global const uint *in, global uint *out, global const weights16 *weights,                   \
                     global const int16 *bias, global const float16 *scale, int in_blocks, int in_h, int in_w,   \
                     int out_blocks, int out_h, int out_w, int kernel_h, int kernel_w, int stride_y,             \
                     int stride_x, int dilation_y, int dilation_x, int top, int left, int pad, int zero_point,   \
                     int low, int high, int span, int chunk) {                                                   \
        const int pixels = out_h * out_w, first = get_global_id(0) * tile;                                       \
        const int words = kernel_h * kernel_w * in_blocks;                                                       \
        const int end = min((int)(get_global_id(1) + 1) * span, (out_blocks + 3) / 4);                           \
        in += (size_t)get_global_id(2) * in_blocks * in_h * in_w;                                                \
        out += (size_t)get_global_id(2) * out_blocks * pixels;                                                   \
        float panel[4 * tile * MOST];                                                                            \
        corners corner;                                                                                          \
        EACH(i, tile) {                                                                                          \
            const int pixel = min(first + i, pixels - 1);                                                        \
            corner.y[i] = pixel / out_w * stride_y - top;                                                        \
            corner.x[i] = pixel % out_w * stride_x - left;                                                       \
        }                                                                                                        \
        corner.row = tile == TILE && first + tile <= pixels && first % out_w + tile <= out_w;                    \
        for (int group = get_global_id(1) * span; group < end; group += GROUP) {                                 \
            const int blocks = min(GROUP, end - group);                                                          \
            int16 sums[GROUP][tile];                                                                             \
            for (int b = 0; b < blocks; b++)                                                                     \
                EACH(i, tile) sums[b][i] = bias[group + b];                                                      \
            for (int start = 0; start < words; start += chunk) {                                                 \
                const int count = min(chunk, words - start);                                                     \
                if (words > chunk || group == get_global_id(1) * span) {                                         \
                    float *next = panel;                                                                         \
                    for (int word = start; word < start + count;) {                                              \
                        const int tap = word / in_blocks, ky = tap / kernel_w, kx = tap % kernel_w;              \
                        const int from = word % in_blocks, to = min(in_blocks, from + start + count - word);     \
                        PACK(next, tile)                                                                         \
                        word += to - from;                                                                       \
                    }                                                                                            \
                }                                                                                                \
                for (int b = 0; b < blocks; b++) {                                                               \
                    global const weights16 *weight = weights + ((size_t)(group + b) * words + start) * 4;        \
                    float16 part[PARTS(tile)];                                                                   \
                    EACH(i, PARTS(tile)) part[i] = 0;                                                            \
                    for (int k = 0; k < count; k++)                                                              \
                        EACH(j, 4) {                                                                             \
                            const float16 w = convert_float16(*weight++);                                        \
                            EACH(i, tile) part[tile == 1 ? j : i] += w * panel[(k * tile + i) * 4 + j];          \
                        }                                                                                        \
                    EACH(i, PARTS(tile)) sums[b][tile == 1 ? 0 : i] += convert_int16(part[i]);                   \
                }                                                                                                \
            }                                                                                                    \
            for (int b = 0; b < blocks; b++)                                                                     \
                for (int i = 0; i < tile && first + i < pixels; i++) {                                           \
                    const int block = 4 * (group + b);                                                           \
                    const uint4 four =                                                                           \
                        as_uint4(requantise(sums[b][i], scale[group + b], zero_point, low, high));               \
                    global uint *to = out + (size_t)block * pixels + first + i;                                  \
                    to[0] = four.s0;                                                                             \
                    if (block + 1 < out_blocks)                                                                  \
                        to[pixels] = four.s1;                                                                    \
                    if (block + 2 < out_blocks)                                                                  \
                        to[2 * pixels] = four.s2;                                                                \
                    if (block + 3 < out_blocks)                                                                  \
                        to[3 * pixels] = four.s3;                                                                \
                }                                                                                                \
        }                                                                                                        \
    }

CONV(conv, char16, TILE)
CONV(conv_wide, short16, TILE)
CONV(conv_pixel, char16, 1)
CONV(conv_pixel_wide, short16, 1)

#pragma OPENCL FP_CONTRACT OFF
#endif
