package dev.slmkit.sample.core

import java.text.Normalizer

/** What a kind of tokenizer does before and after its BPE. */
interface Form {
    /** Words of a text, in the letters of the vocabulary. */
    fun words(text: String): List<String>

    fun decoder(): Decoder
}

/** Text out of words of the vocabulary as they come. */
interface Decoder {
    fun add(word: String): String

    fun end(): String
}

private fun unknown(part: String, steps: Any?): Nothing = throw Refused("the tokenizer's $part is ${Json.write(steps)}, which this app does not read")

private fun steps(value: Any?, name: String) = value?.obj()?.let { if (it["type"] == "Sequence") it[name].list() else listOf(it) } ?: emptyList()

/** Bytes as letters, and the splits of GPT-2, Llama 3 and Qwen 2. */
class ByteLevel(root: Map<String, Any?>) : Form {
    private val composes = root["normalizer"] == mapOf("type" to "NFC")
    private val splits: List<Regex>

    init {
        val steps = steps(root["pre_tokenizer"], "pretokenizers")
        val last = steps.lastOrNull()?.obj().orEmpty()
        val before = steps.dropLast(1)
        val regex = (before.singleOrNull()?.obj()?.get("pattern") as? Map<*, *>)?.get("Regex")
        val split = mapOf("type" to "Split", "pattern" to mapOf("Regex" to regex), "behavior" to "Isolated", "invert" to false)
        val plain = last["type"] == "ByteLevel" && last["add_prefix_space"] != true
        splits = when {
            plain && last["use_regex"] != false && before.isEmpty() -> listOf(portable(GPT_2))
            plain && last["use_regex"] != false && before == listOf(DIGITS) -> listOf(Regex("\\p{N}"), portable(GPT_2))
            plain && last["use_regex"] == false && before == listOf(split) && (regex == LLAMA_3 || regex == QWEN_2) -> listOf(portable(regex as String))
            else -> unknown("pre-tokenizer", root["pre_tokenizer"])
        }
        if (root["normalizer"] != null && !composes) unknown("normalizer", root["normalizer"])
        if (root["decoder"]?.obj()?.get("type") != "ByteLevel") unknown("decoder", root["decoder"])
    }

    override fun words(text: String): List<String> {
        val whole = if (composes) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        val words = splits.fold(listOf(whole)) { parts, split -> parts.flatMap { isolated(split, it) } }
        return words.map { word -> word.toByteArray().joinToString("") { LETTERS[it.toInt() and 255].toString() } }
    }

    private fun isolated(split: Regex, text: String): List<String> {
        val ends = split.findAll(text).flatMap { listOf(it.range.first, it.range.last + 1) } + text.length
        return (sequenceOf(0) + ends).zipWithNext { from, to -> text.substring(from, to) }.filter { it.isNotEmpty() }.toList()
    }

    override fun decoder() = object : Decoder {
        private var waiting = ByteArray(0)

        override fun add(word: String): String {
            waiting += if (word.all { it in BYTES }) ByteArray(word.length) { BYTES.getValue(word[it]) } else word.toByteArray()
            return taken(waiting.size - open(waiting))
        }

        override fun end() = taken(waiting.size)

        private fun taken(size: Int) = String(waiting, 0, size, Charsets.UTF_8).also { waiting = waiting.copyOfRange(size, waiting.size) }
    }

    private companion object {
        const val GPT_2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
        const val CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
        const val REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        const val LLAMA_3 = "$CONTRACTIONS|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|$REST"
        const val QWEN_2 = "$CONTRACTIONS|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|$REST"
        const val WHITE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
        val DIGITS = mapOf("type" to "Digits", "individual_digits" to true)

        /** GPT-2's letters: printable ones for themselves, others from 256 on. */
        val LETTERS = CharArray(256).also { letters ->
            val printable = ('!'..'~') + ('\u00a1'..'\u00ac') + ('\u00ae'..'\u00ff')
            val others = (0..255).filter { it.toChar() !in printable }
            for (letter in printable) letters[letter.code] = letter
            others.forEachIndexed { at, byte -> letters[byte] = (256 + at).toChar() }
        }
        val BYTES = LETTERS.withIndex().associate { (byte, letter) -> letter to byte.toByte() }

        /** An expression that means the same on every platform. (?i) of the tokenizers' library takes the long s for an s. */
        fun portable(regex: String) = Regex(
            regex.replace(CONTRACTIONS, "'(?:[sS\u017fdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
                .replace("[^\\s", "[^$WHITE").replace("\\s", "[$WHITE]").replace("\\S", "[^$WHITE]"),
        )

        /** How many bytes at the end begin a character of UTF-8 that is not whole. */
        fun open(bytes: ByteArray): Int {
            for (back in 1..minOf(3, bytes.size)) {
                val byte = bytes[bytes.size - back].toInt() and 255
                if (byte >= 0xC0) return if (back < (if (byte >= 0xF0) 4 else if (byte >= 0xE0) 3 else 2)) back else 0
                if (byte < 0x80) break
            }
            return 0
        }
    }
}

/** SentencePiece's words: a letter of its own for spaces, and tokens <0x00> to <0xFF> for what the vocabulary lacks. */
class Pieces(root: Map<String, Any?>) : Form {
    private val prefix: String // of a text: a space, or nothing

    init {
        val normalizers = steps(root["normalizer"], "normalizers")
        prefix = if (normalizers.firstOrNull() == PREPEND) SPACE else ""
        if (normalizers != listOfNotNull(PREPEND.takeIf { prefix == SPACE }, replace(" ", SPACE))) unknown("normalizer", root["normalizer"])
        val decoders = listOf(replace(SPACE, " "), mapOf("type" to "ByteFallback"), mapOf("type" to "Fuse")) + listOfNotNull(STRIP.takeIf { prefix == SPACE })
        if (steps(root["decoder"], "decoders") != decoders) unknown("decoder", root["decoder"])
        if (root["pre_tokenizer"] != null && root["pre_tokenizer"] != UNUSED) unknown("pre-tokenizer", root["pre_tokenizer"])
    }

    override fun words(text: String) = listOf(prefix + text.replace(" ", SPACE))

    override fun decoder() = object : Decoder {
        private var waiting = ByteArray(0) // a run of bytes, which is text as a whole or not at all
        private var first = prefix == SPACE

        override fun add(word: String): String {
            val byte = HEX.matchEntire(word)?.groupValues?.get(1)?.toInt(16) ?: return end() + begun(word.replace(SPACE, " "))
            waiting += byte.toByte()
            return ""
        }

        override fun end(): String {
            val text = String(waiting, Charsets.UTF_8)
            val lost = !text.toByteArray().contentEquals(waiting)
            return begun(if (lost) "\ufffd".repeat(waiting.size) else text).also { waiting = ByteArray(0) }
        }

        private fun begun(text: String) = (if (first) text.removePrefix(" ") else text).also { first = first && text.isEmpty() }
    }

    private companion object {
        const val SPACE = "\u2581"
        val HEX = Regex("<0x([0-9A-F]{2})>")
        val PREPEND = mapOf("type" to "Prepend", "prepend" to SPACE)
        val STRIP = mapOf("type" to "Strip", "content" to " ", "start" to 1.0, "stop" to 0.0)
        val UNUSED = mapOf("type" to "Split", "pattern" to mapOf("String" to " "), "behavior" to "MergedWithPrevious", "invert" to false)

        fun replace(old: String, new: String) = mapOf("type" to "Replace", "pattern" to mapOf("String" to old), "content" to new)
    }
}
