// Activations: int8 [ceil(C/4)][H][W][4] for each sample, one sample after another. The third work-item index is
// sample x blocks + block. Lanes beyond the last channel hold anything: weights for them are zero.

#pragma OPENCL FP_CONTRACT OFF

#if OVERLAID_DOT
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define DOT(a, b) dot_4x8packed_ss_int(a, b)
#else
inline int DOT(uint a, uint b) {
    const char4 x = as_char4(a), w = as_char4(b);
    return (int)x.s0 * w.s0 + (int)x.s1 * w.s1 + (int)x.s2 * w.s2 + (int)x.s3 * w.s3;
}
#endif

// What ONNX Runtime's QLinearConv does: float32 throughout, halves to even. Clamped first, as the bounds are whole.
inline char4 requantise(int4 sums, float4 scale, int zero_point, int low, int high) {
    const float4 value = convert_float4_rte(sums) * scale;
    const float4 bounded = fmin(fmax(value, (float)(low - zero_point)), (float)(high - zero_point));
    return convert_char4(convert_int4(rint(bounded)) + zero_point);
}
