// Highest, and sum x scale, of a window.

kernel void pool_max(global const char4 *in, global char4 *out, int in_h, int in_w, int out_h, int out_w, int kernel_h,
                     int kernel_w, int stride_y, int stride_x, int top, int left, int pad, int low, int high) {
    const int x = get_global_id(0), y = get_global_id(1);
    if (x >= out_w || y >= out_h)
        return;
    in += (size_t)get_global_id(2) * in_h * in_w;
    char4 highest = (char4)-128;
    for (int ky = 0; ky < kernel_h; ky++)
        for (int kx = 0; kx < kernel_w; kx++) {
            const int iy = y * stride_y - top + ky, ix = x * stride_x - left + kx;
            const bool inside = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w;
            highest = max(highest, inside ? in[(size_t)iy * in_w + ix] : (char4)pad);
        }
    out[((size_t)get_global_id(2) * out_h + y) * out_w + x] = min(max(highest, (char4)low), (char4)high);
}

// scale: the bits of a float.
kernel void pool_average(global const char4 *in, global char4 *out, int in_h, int in_w, int out_h, int out_w,
                         int kernel_h, int kernel_w, int stride_y, int stride_x, int top, int left, int pad, int bias,
                         int scale, int zero_point, int low, int high) {
    const int x = get_global_id(0), y = get_global_id(1);
    if (x >= out_w || y >= out_h)
        return;
    in += (size_t)get_global_id(2) * in_h * in_w;
    int4 sums = bias;
    for (int ky = 0; ky < kernel_h; ky++)
        for (int kx = 0; kx < kernel_w; kx++) {
            const int iy = y * stride_y - top + ky, ix = x * stride_x - left + kx;
            const bool inside = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w;
            sums += inside ? convert_int4(in[(size_t)iy * in_w + ix]) : (int4)pad;
        }
    out[((size_t)get_global_id(2) * out_h + y) * out_w + x] =
        requantise(sums, (float4)as_float(scale), zero_point, low, high);
}
