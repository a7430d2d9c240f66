package dev.slmkit.sample.core

import java.text.Normalizer

/** A tokenizer.json: byte-level BPE, or BPE on text with byte fallback. Any other kind is refused by its name. */
class Tokenizer(text: String) {
    private val root = Json.parse(text).obj()
    private val bpe = Bpe(root["model"].obj())
    private val added = root["added_tokens"].list().map { Added(it.obj()) }
    private val special = added.filter { it.special }.map { it.id }.toSet()
    private val words = bpe.tokens + added.associate { it.id to it.content }
    private val normalize = steps(root["normalizer"], "normalizers").map { normalizer(it) }
    private val splits = steps(root["pre_tokenizer"], "pretokenizers").map { split(it) }
    private val decoders = steps(root["decoder"], "decoders").map { decoder(it) }
    private val raw = added.filter { !it.normalized }.sortedByDescending { it.content.length }
    private val normal = added.filter { it.normalized }.sortedByDescending { it.content.length }

    operator fun contains(id: Int) = id in words

    /** Ids of a text in which added tokens stand for themselves. No start token is added. */
    fun encode(text: String): List<Int> = ArrayList<Int>().also { ids ->
        cut(text, 0, raw, ids) { piece, at ->
            val normalized = normalize.fold(piece) { all, step -> step(all) }
            cut(normalized, at, normal, ids) { part, from ->
                splits.fold(listOf(part)) { parts, step -> parts.flatMap { step(it, from == 0) } }.forEach { bpe.encode(it, ids) }
            }
        }
    }

    /** Calls ``between`` with the texts between added tokens, and where they begin. */
    private fun cut(text: String, start: Int, tokens: List<Added>, ids: MutableList<Int>, between: (String, Int) -> Unit) {
        var plain = 0
        var at = 0
        while (at < text.length) {
            val hit = tokens.firstOrNull { text.startsWith(it.content, at) }
            if (hit == null) { at++; continue }
            val end = if (hit.left) maxOf(plain, text.substring(0, at).trimEnd { it.isWhite() }.length) else at
            if (end > plain) between(text.substring(plain, end), start + plain)
            ids.add(hit.id)
            at += hit.content.length
            if (hit.right) while (at < text.length && text[at].isWhite()) at++
            plain = at
        }
        if (plain < text.length) between(text.substring(plain), start + plain)
    }

    fun decode(ids: Iterable<Int>, special: Boolean = false) = Text(special).run { ids.joinToString("") { add(it) } + end() }

    /** Text out of tokens as they come. A character whose bytes are not all there waits. */
    inner class Text(private val special: Boolean = false) {
        private var waiting = ByteArray(0)
        private var first = true

        fun add(id: Int): String {
            val word = words[id] ?: return ""
            if (!special && id in this@Tokenizer.special) return ""
            val byte = if (BYTE_FALLBACK in decoders) HEX.matchEntire(word)?.groupValues?.get(1)?.toInt(16) else null
            if (BYTE_LEVEL in decoders) waiting += ByteLevel.bytes(word) else if (byte != null) waiting += byte.toByte()
            else return end() + begin(if (REPLACE in decoders) word.replace(SPACE, ' ') else word)
            return if (BYTE_LEVEL in decoders) take(complete(waiting)) else ""
        }

        fun end(): String {
            if (BYTE_LEVEL in decoders || waiting.isEmpty()) return take(waiting.size)
            val text = String(waiting, Charsets.UTF_8) // a run of bytes is text, or none of it is
            val whole = if (text.toByteArray().contentEquals(waiting)) text else "\ufffd".repeat(waiting.size)
            waiting = ByteArray(0)
            return begin(whole)
        }

        private fun take(size: Int) = String(waiting, 0, size, Charsets.UTF_8).also { waiting = waiting.copyOfRange(size, waiting.size) }

        private fun begin(text: String) = (if (first && STRIP in decoders) text.removePrefix(" ") else text).also { first = first && text.isEmpty() }
    }

    private class Added(o: Map<String, Any?>) {
        val id = o["id"].int()
        val content = o["content"] as String
        val special = o["special"] == true
        val normalized = o["normalized"] == true
        val left = o["lstrip"] == true
        val right = o["rstrip"] == true

        init {
            if (o["single_word"] == true) throw Refused("the tokenizer has tokens that are words of their own ($content), which this app does not read")
        }
    }

    companion object {
        private const val SPACE = '\u2581' // what SentencePiece writes for a space
        private const val BYTE_LEVEL = "ByteLevel"
        private const val BYTE_FALLBACK = "ByteFallback"
        private const val REPLACE = "Replace"
        private const val STRIP = "Strip"
        private val HEX = Regex("<0x([0-9A-F]{2})>")
        private val CONTRACTIONS = "'(?:[sS\u017f]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])" // (?i) without the platform's reading of it
        private val GPT_2 = pattern("'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")
        private val LLAMA_3 = of("{1,3}")
        private val QWEN_2 = of("")

        private fun of(digits: String) =
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}$digits| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

        /** Regex with Unicode's white space, which Java's \s is not. */
        private fun pattern(regex: String): Regex {
            val space = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
            return Regex(regex.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", CONTRACTIONS).replace("[^\\s", "[^$space").replace("\\s", "[$space]").replace("\\S", "[^$space]"))
        }

        private fun steps(step: Any?, name: String): List<Map<String, Any?>> =
            if (step == null) emptyList() else if (step.obj()["type"] == "Sequence") step.obj()[name].list().map { it.obj() } else listOf(step.obj())

        private fun refuse(step: Map<String, Any?>): Nothing = throw Refused("the tokenizer has ${Json.write(step)}, which this app does not read")

        private fun normalizer(step: Map<String, Any?>): (String) -> String = when {
            step["type"] == "NFC" -> { text -> Normalizer.normalize(text, Normalizer.Form.NFC) }
            step["type"] == "Prepend" -> { text -> if (text.isEmpty()) text else step["prepend"] as String + text }
            step["type"] == "Replace" && step["pattern"] == mapOf("String" to " ") -> { text -> text.replace(" ", step["content"] as String) }
            else -> refuse(step)
        }

        private fun split(step: Map<String, Any?>): (String, Boolean) -> List<String> {
            val regex = (step["pattern"] as? Map<*, *>)?.get("Regex")
            return when {
                step["type"] == "Split" && step["invert"] == false && step["behavior"] == "Isolated" && (regex == LLAMA_3 || regex == QWEN_2) -> pattern(regex as String).let { r -> { text, _ -> isolated(r, text) } }
                step["type"] == "Digits" && step["individual_digits"] == true -> Regex("\\p{N}").let { r -> { text, _ -> isolated(r, text) } }
                step["type"] == "ByteLevel" && step["add_prefix_space"] == false ->
                    { text, _ -> (if (step["use_regex"] == true) isolated(GPT_2, text) else listOf(text)).map { ByteLevel.text(it) } }
                step["type"] == "Split" && step["behavior"] == "MergedWithPrevious" && step["pattern"] == mapOf("String" to " ") -> { text, _ -> text.split(Regex("(?<= )")).filter { it.isNotEmpty() } }
                step["type"] == "Metaspace" && step["replacement"] == SPACE.toString() && step["split"] == false -> { text, start ->
                    val always = step["prepend_scheme"] == "always" || (step["prepend_scheme"] == "first" && start)
                    val spaced = text.replace(' ', SPACE)
                    listOf(if (always && !spaced.startsWith(SPACE)) SPACE + spaced else spaced)
                }
                else -> refuse(step)
            }
        }

        private fun isolated(regex: Regex, text: String): List<String> {
            val parts = ArrayList<String>()
            var at = 0
            for (match in regex.findAll(text)) {
                if (match.range.first > at) parts.add(text.substring(at, match.range.first))
                parts.add(match.value)
                at = match.range.last + 1
            }
            return if (at < text.length) parts + text.substring(at) else parts
        }

        private fun decoder(step: Map<String, Any?>): String {
            val known = when (step["type"]) {
                BYTE_LEVEL, BYTE_FALLBACK, "Fuse" -> true
                REPLACE -> step["pattern"] == mapOf("String" to SPACE.toString()) && step["content"] == " "
                STRIP -> step["content"] == " " && step["start"] == 1.0 && step["stop"] == 0.0
                else -> false
            }
            return if (known) step["type"] as String else refuse(step)
        }

        /** How many bytes are whole characters of UTF-8. */
        private fun complete(bytes: ByteArray): Int {
            for (back in 1..minOf(3, bytes.size)) {
                val byte = bytes[bytes.size - back].toInt() and 255
                if (byte < 0x80) break
                if (byte >= 0xC0) return if (back < (if (byte >= 0xF0) 4 else if (byte >= 0xE0) 3 else 2)) bytes.size - back else bytes.size
            }
            return bytes.size
        }
    }
}

/** White space as Unicode has it, the same on every platform. */
fun Char.isWhite() = this in '\t'..'\r' || this in '\u2000'..'\u200a' || this in " \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000"

/** GPT-2's alphabet: a printable character for every byte. */
object ByteLevel {
    private val chars = CharArray(256).also {
        var other = 256
        for (byte in 0..255) it[byte] = if (byte in 33..126 || byte in 161..172 || byte in 174..255) byte.toChar() else (other++).toChar()
    }
    private val codes = chars.withIndex().associate { (byte, char) -> char to byte.toByte() }

    fun text(text: String) = text.toByteArray().joinToString("") { chars[it.toInt() and 255].toString() }

    fun bytes(word: String) = if (word.all { it in codes }) ByteArray(word.length) { codes.getValue(word[it]) } else word.toByteArray()
}
