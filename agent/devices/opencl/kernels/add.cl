// (a x ratio_a + b x ratio_b + offset) / 2^shift, halves to even, in 64-bit integers: the sums have 41 bits.

kernel void add(global const uint *a, global const uint *b, global uint *out, int pixels, int columns, int ratio_a,
                int ratio_b, int offset_low, int offset_high, int shift, int low, int high) {
    const int first = get_global_id(0) * columns;
    const long offset = (long)(((ulong)(uint)offset_high << 32) | (uint)offset_low);
    const long half_less = shift ? (1L << (shift - 1)) - 1 : 0, odd = shift ? 1 : 0;
    a += (size_t)get_global_id(2) * pixels;
    b += (size_t)get_global_id(2) * pixels;
    out += (size_t)get_global_id(2) * pixels;
    for (int x = first; x < min(first + columns, pixels); x += PIXELS) {
        longs total = TO_LONGS(load_pixels(a, x, 1, pixels, 0)) * ratio_a +
                      TO_LONGS(load_pixels(b, x, 1, pixels, 0)) * ratio_b + offset;
        // Half, less one when the whole part is even: a tie then stays below the next number.
        total = (total + ((total >> shift) & odd) + half_less) >> shift;
        store_pixels(out, x, pixels, TO_CHARS(min(max(total, (longs)low), (longs)high)));
    }
}
