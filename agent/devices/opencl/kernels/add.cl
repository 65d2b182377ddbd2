// (a x ratio_a + b x ratio_b + offset) / 2^shift, halves to even, in 64-bit integers: the sums have 41 bits.

kernel void add(global const char4 *a, global const char4 *b, global char4 *out, int pixels, int ratio_a, int ratio_b,
                int offset_low, int offset_high, int shift, int low, int high) {
    const int i = get_global_id(0);
    if (i >= pixels)
        return;
    const size_t at = (size_t)get_global_id(2) * pixels + i;
    const long offset = ((long)offset_high << 32) | (uint)offset_low;
    long4 total = convert_long4(a[at]) * (long)ratio_a + convert_long4(b[at]) * (long)ratio_b + offset;
    if (shift) {
        // Half, less one when the whole part is even: a tie then stays below the next number.
        total += ((total >> shift) & 1L) + ((1L << (shift - 1)) - 1);
        total >>= shift;
    }
    out[at] = convert_char4(min(max(total, (long4)low), (long4)high));
}
