// Each channel with its own kernel: a work-item sums four channels of one pixel. Weights of any width.

kernel void depthwise(global const char4 *in, global char4 *out, global const short4 *weights, global const int4 *bias,
                      global const float4 *scale, int blocks, int in_h, int in_w, int out_h, int out_w, int kernel_h,
                      int kernel_w, int stride_y, int stride_x, int dilation_y, int dilation_x, int top, int left,
                      int pad, int zero_point, int low, int high) {
    const int x = get_global_id(0), y = get_global_id(1), block = get_global_id(2) % blocks;
    if (x >= out_w || y >= out_h)
        return;
    in += (size_t)get_global_id(2) * in_h * in_w;
    weights += (size_t)block * kernel_h * kernel_w;
    int4 sums = bias[block];
    for (int ky = 0; ky < kernel_h; ky++)
        for (int kx = 0; kx < kernel_w; kx++) {
            const int iy = y * stride_y - top + ky * dilation_y, ix = x * stride_x - left + kx * dilation_x;
            const bool inside = iy >= 0 && iy < in_h && ix >= 0 && ix < in_w;
            const char4 data = inside ? in[(size_t)iy * in_w + ix] : (char4)pad;
            sums += convert_int4(data) * convert_int4(*weights++);
        }
    out[((size_t)get_global_id(2) * out_h + y) * out_w + x] = requantise(sums, scale[block], zero_point, low, high);
}
