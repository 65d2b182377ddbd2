// Activations: int8 [ceil(C/4)][H][W][4] for each sample, one sample after another, read as words of four channels.
// Lanes beyond the last channel hold anything: weights for them are zero. The third work-item index is the sample, or
// sample x blocks + block. All shapes are arguments: `columns` and `rows` are the pixels that a work-item makes.

#pragma OPENCL FP_CONTRACT OFF

// Unrolled, so that arrays become registers.
#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < count; i++)

// A work-item's vectors: four channels of so many neighbouring pixels.
#if OVERLAID_CPU
#define PIXELS 4
#define LANES(type) type##16
#define REPEAT(four) ((four).s0123012301230123)
#else
#define PIXELS 1
#define LANES(type) type##4
#define REPEAT(four) (four)
#endif
typedef LANES(char) chars;
typedef LANES(int) ints;
typedef LANES(long) longs;
typedef LANES(float) floats;

#if OVERLAID_CPU
#define TO_CHARS convert_char16
#define TO_INTS convert_int16
#define TO_LONGS convert_long16
#define TO_FLOATS convert_float16_rte
#define AS_CHARS as_char16
#else
#define TO_CHARS convert_char4
#define TO_INTS convert_int4
#define TO_LONGS convert_long4
#define TO_FLOATS convert_float4_rte
#define AS_CHARS as_char4
#endif

// What ONNX Runtime's QLinearConv does: float32 throughout, halves to even. Clamped first, as the bounds are whole.
inline chars requantise(ints sums, floats scale, int zero_point, int low, int high) {
    const floats value = TO_FLOATS(sums) * scale;
    const floats bounded = fmin(fmax(value, (floats)(low - zero_point)), (floats)(high - zero_point));
    return TO_CHARS(TO_INTS(rint(bounded)) + zero_point);
}

// Neighbouring windows' pixels, `stride` apart, of a row; `pad` where there is none.
inline chars load_pixels(global const uint *row, int x, int stride, int width, uint pad) {
#if OVERLAID_CPU
    const int last = x + 3 * stride;
    if (x >= 0 && last < width)
        return AS_CHARS(stride == 1 ? vload4(0, row + x)
                                    : (uint4)(row[x], row[x + stride], row[x + 2 * stride], row[last]));
    uint word[4];
    for (int i = 0; i < 4; i++) {
        const int at = x + i * stride;
        word[i] = at >= 0 && at < width ? row[at] : pad;
    }
    return AS_CHARS(vload4(0, word));
#else
    return AS_CHARS(x >= 0 && x < width ? row[x] : pad);
#endif
}

inline void store_pixels(global uint *row, int x, int width, chars pixels) {
#if OVERLAID_CPU
    const uint4 words = as_uint4(pixels);
    if (x + 3 < width) {
        vstore4(words, 0, row + x);
        return;
    }
    row[x] = words.s0;
    if (x + 1 < width)
        row[x + 1] = words.s1;
    if (x + 2 < width)
        row[x + 2] = words.s2;
#else
    row[x] = as_uint(pixels);
#endif
}
