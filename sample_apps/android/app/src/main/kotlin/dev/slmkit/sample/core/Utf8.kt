package dev.slmkit.sample.core

private val SIZES = mapOf(0..0x7F to 1, 0xC2..0xDF to 2, 0xE0..0xEF to 3, 0xF0..0xF4 to 4) // by the first byte
private val SECOND = mapOf(0xE0 to 0xA0..0xBF, 0xED to 0x80..0x9F, 0xF0 to 0x90..0xBF, 0xF4 to 0x80..0x8F) // likewise
private val LATER = 0x80..0xBF

/**
 * Appends the text of UTF-8, on every platform the same: what is none becomes U+FFFD, in Unicode's numbers. How many
 * bytes are done; an unfinished character is left if ``more`` follow.
 */
fun decodeUtf8(bytes: ByteArray, text: StringBuilder, more: Boolean): Int {
    var at = 0
    while (at < bytes.size) {
        val lead = bytes[at].toInt() and 255
        val whole = SIZES.entries.firstOrNull { lead in it.key }?.value ?: 0
        fun allowed(size: Int) = if (size == 1) SECOND[lead] ?: LATER else LATER
        var size = 1
        while (size < whole && at + size < bytes.size && bytes[at + size].toInt().and(255) in allowed(size)) size++
        if (size < whole && at + size == bytes.size && more) break
        text.append(if (size == whole) String(bytes, at, size, Charsets.UTF_8) else "\ufffd")
        at += size
    }
    return at
}
