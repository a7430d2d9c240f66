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

private fun known(holds: Boolean, root: Map<String, Any?>, part: String) =
    demand(holds) { "the tokenizer's $part is ${Json.write(root[part])}, which this app does not read" }

private fun steps(value: Any?, name: String): List<Any?> =
    if (value?.obj()?.get("type") == "Sequence") value.obj()[name].list() else listOfNotNull(value)

/** Bytes as letters, and the splits of GPT-2, Llama 3 and Qwen 2. */
class ByteLevel(root: Map<String, Any?>) : Form {
    private val composes = root["normalizer"] == mapOf("type" to "NFC")
    private val splits: List<Regex>

    init {
        val steps = steps(root["pre_tokenizer"], "pretokenizers")
        val last = steps.lastOrNull()?.obj().orEmpty()
        val before = steps.dropLast(1)
        val regex = (before.singleOrNull()?.obj()?.get("pattern") as? Map<*, *>)?.get("Regex")
        val pattern = mapOf("Regex" to regex)
        val split = mapOf("type" to "Split", "pattern" to pattern, "behavior" to "Isolated", "invert" to false)
        val own = last["use_regex"] != false // GPT-2's
        splits = when {
            own && before.isEmpty() -> listOf(portable(GPT_2))
            own && before == listOf(DIGITS) -> listOf(Regex("\\p{N}"), portable(GPT_2))
            !own && before == listOf(split) && regex in listOf(LLAMA_3, QWEN_2) -> listOf(portable(regex as String))
            else -> emptyList()
        }
        val bytes = last["type"] == "ByteLevel" && last["add_prefix_space"] != true
        known(bytes && splits.isNotEmpty(), root, "pre_tokenizer")
        known(composes || root["normalizer"] == null, root, "normalizer")
        known(root["decoder"]?.obj()?.get("type") == "ByteLevel", root, "decoder")
    }

    override fun words(text: String): List<String> {
        val whole = if (composes) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        val words = splits.fold(listOf(whole)) { parts, split -> parts.flatMap { isolated(split, it) } }
        return words.map { word -> word.toByteArray().joinToString("") { LETTERS[it.toInt() and 255].toString() } }
    }

    private fun isolated(split: Regex, text: String): List<String> {
        val ends = split.findAll(text).flatMap { listOf(it.range.first, it.range.last + 1) } + text.length
        val parts = (sequenceOf(0) + ends).zipWithNext { from, to -> text.substring(from, to) }
        return parts.filter { it.isNotEmpty() }.toList()
    }

    override fun decoder() = object : Decoder {
        private var waiting = ByteArray(0)

        override fun add(word: String): String {
            val letters = word.all { it in BYTES }
            waiting += if (letters) ByteArray(word.length) { BYTES.getValue(word[it]) } else word.toByteArray()
            return taken(more = true)
        }

        override fun end() = taken(more = false)

        private fun taken(more: Boolean): String {
            val text = StringBuilder()
            val count = decode(waiting, text, more)
            waiting = waiting.copyOfRange(count, waiting.size)
            return text.toString()
        }
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
        val SIZES = mapOf(0..0x7F to 1, 0xC2..0xDF to 2, 0xE0..0xEF to 3, 0xF0..0xF4 to 4) // by the first byte
        val BYTES = LETTERS.withIndex().associate { (byte, letter) -> letter to byte.toByte() }

        /** An expression that means the same on every platform. To the tokenizers' (?i), the long s is an s. */
        fun portable(regex: String) = Regex(
            regex.replace(CONTRACTIONS, "'(?:[sS\u017fdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
                .replace("[^\\s", "[^$WHITE").replace("\\s", "[$WHITE]").replace("\\S", "[^$WHITE]"),
        )

        /** UTF-8; what is none becomes U+FFFD, in Unicode's numbers. How many bytes are done, if ``more`` follow. */
        fun decode(bytes: ByteArray, text: StringBuilder, more: Boolean): Int {
            var at = 0
            while (at < bytes.size) {
                val lead = bytes[at].toInt() and 255
                val whole = SIZES.entries.firstOrNull { lead in it.key }?.value ?: 0
                val least = when (lead) { 0xE0 -> 0xA0; 0xF0 -> 0x90; else -> 0x80 } // of the second byte
                val most = when (lead) { 0xED -> 0x9F; 0xF4 -> 0x8F; else -> 0xBF }
                fun follows(size: Int) = bytes[at + size].toInt().and(255) in if (size == 1) least..most else 0x80..0xBF
                var size = 1
                while (size < whole && at + size < bytes.size && follows(size)) size++
                if (size < whole && at + size == bytes.size && more) break
                text.append(if (size == whole) String(bytes, at, size, Charsets.UTF_8) else "\ufffd")
                at += size
            }
            return at
        }
    }
}

/** SentencePiece's words: a letter of its own for spaces, and tokens <0x00> to <0xFF> for what the vocabulary lacks. */
class Pieces(root: Map<String, Any?>) : Form {
    private val prefix: String // of a text: a space, or nothing

    init {
        val normalizers = steps(root["normalizer"], "normalizers")
        val prefixed = normalizers.firstOrNull() == PREPEND
        prefix = if (prefixed) SPACE else ""
        known(normalizers == listOfNotNull(PREPEND.takeIf { prefixed }, replace(" ", SPACE)), root, "normalizer")
        val decoders = DECODERS + listOfNotNull(STRIP.takeIf { prefixed })
        known(steps(root["decoder"], "decoders") == decoders, root, "decoder")
        known(root["pre_tokenizer"].let { it == null || it == UNUSED }, root, "pre_tokenizer")
    }

    override fun words(text: String) = listOf(prefix + text.replace(" ", SPACE))

    override fun decoder() = object : Decoder {
        private var waiting = ByteArray(0) // a run of bytes, which is text as a whole or not at all
        private var first = prefix == SPACE

        override fun add(word: String): String {
            val byte = HEX.matchEntire(word)?.groupValues?.get(1)?.toInt(16)
            if (byte == null) return end() + begun(word.replace(SPACE, " "))
            waiting += byte.toByte()
            return ""
        }

        override fun end(): String {
            val text = String(waiting, Charsets.UTF_8)
            val lost = !text.toByteArray().contentEquals(waiting)
            return begun(if (lost) "\ufffd".repeat(waiting.size) else text).also { waiting = ByteArray(0) }
        }

        private fun begun(text: String): String {
            val rest = if (first) text.removePrefix(" ") else text
            first = first && text.isEmpty()
            return rest
        }
    }

    private companion object {
        const val SPACE = "\u2581"
        val HEX = Regex("<0x([0-9A-F]{2})>")
        val PREPEND = mapOf("type" to "Prepend", "prepend" to SPACE)
        val STRIP = mapOf("type" to "Strip", "content" to " ", "start" to 1.0, "stop" to 0.0)
        val DECODERS = listOf(replace(SPACE, " "), mapOf("type" to "ByteFallback"), mapOf("type" to "Fuse"))
        val UNUSED = // Gemma's: the normalizer leaves no space
            mapOf("type" to "Split", "pattern" to text(" "), "behavior" to "MergedWithPrevious", "invert" to false)

        fun replace(old: String, new: String) = mapOf("type" to "Replace", "pattern" to text(old), "content" to new)

        fun text(text: String) = mapOf("String" to text)
    }
}
