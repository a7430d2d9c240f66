package dev.slmkit.sample.core

import java.text.Normalizer
import kotlinx.serialization.Serializable

/** tokens.json: a tokenizer as data, which Python worked out of its tokenizer.json. */
@Serializable
class Tokens(
    val nfc: Boolean,
    val prefix: String, // of a text: a space, or nothing
    val splits: List<String>, // expressions, one after another: their matches are words
    val wholeFirst: Boolean,
    val added: List<Added>,
    val byteIds: IntArray, // of each byte; -1: it is left out
    val characters: IntArray, // a code point, its id, and so on; empty: byte-level BPE
    val merges: IntArray, // the left, the right and the joined id, and so on
    val texts: List<String?>, // by id: its bytes as U+0000 to U+00FF
)

/** A token that is found in a text as it stands; it takes the white space before or after it with it. */
@Serializable
class Added(
    val id: Int,
    val content: String,
    val special: Boolean,
    val late: Boolean, // found in what the others leave
    val lstrip: Boolean,
    val rstrip: Boolean,
)

/** Text to ids and back, by the data in tokens.json. */
class Tokenizer(text: String) {
    private val tokens = written<Tokens>(text, "tokens.json", "slmkit-app-tokens/1")
    private val bpe = Bpe(tokens)
    private val splits = tokens.splits.map { Regex(it) }
    private val special = tokens.added.filter { it.special }.map { it.id }.toSet()
    private val bytes = if (tokens.characters.isEmpty()) null else tokens.byteIds.toSet() // null: all are of bytes
    private val passes = tokens.added.partition { !it.late }.toList().map { added -> added.groupBy { it.content[0] } }

    operator fun contains(id: Int) = tokens.texts.getOrNull(id) != null

    /** Ids of a text in which added tokens stand for themselves. No start token is added. */
    fun encode(text: String): List<Int> = ArrayList<Int>().also { ids ->
        val (early, late) = passes
        cut(text, early, ids) { between ->
            cut(between, late, ids) { plain -> words(plain).forEach { bpe.encode(it, ids) } }
        }
    }

    private fun cut(text: String, tokens: Map<Char, List<Added>>, ids: MutableList<Int>, between: (String) -> Unit) {
        var plain = 0
        var at = 0
        while (at < text.length) {
            val token = tokens[text[at]]?.firstOrNull { text.startsWith(it.content, at) }
            if (token == null) {
                at++
                continue
            }
            val start = if (token.lstrip) text.substring(0, at).trimEnd { it.isWhite() }.length else at
            if (start > plain) between(text.substring(plain, start))
            ids.add(token.id)
            at += token.content.length
            plain = at // the next token may begin in the white space that this one takes
            while (token.rstrip && plain < text.length && text[plain].isWhite()) plain++
        }
        if (plain < text.length) between(text.substring(plain))
    }

    private fun Regex.pieces(text: String) = findAll(text).map { it.value }

    private fun words(text: String): List<String> {
        val whole = tokens.prefix + if (tokens.nfc) Normalizer.normalize(text, Normalizer.Form.NFC) else text
        return splits.fold(listOf(whole)) { words, split -> words.flatMap { split.pieces(it) } }
    }

    fun decode(ids: Iterable<Int>, special: Boolean = false) =
        Text(special).run { ids.joinToString("") { add(it) } + end() }

    /** Text out of ids as they come. Bytes of a character wait until it is whole. */
    inner class Text(private val withSpecial: Boolean = false) {
        private var waiting = ByteArray(0)
        private var first = true

        fun add(id: Int): String {
            val text = tokens.texts.getOrNull(id)?.takeIf { withSpecial || id !in special } ?: return ""
            val own = text.toByteArray(Charsets.ISO_8859_1)
            if (bytes != null && id !in bytes) return end() + begun(String(own, Charsets.UTF_8))
            waiting += own
            return if (bytes == null) taken(more = true) else ""
        }

        fun end() = if (bytes == null) taken(more = false) else ofRun()

        private fun taken(more: Boolean): String {
            val text = StringBuilder()
            val count = decodeUtf8(waiting, text, more)
            waiting = waiting.copyOfRange(count, waiting.size)
            return begun(text.toString())
        }

        /** SentencePiece's run of bytes, which is text as a whole or not at all. */
        private fun ofRun(): String {
            val text = String(waiting, Charsets.UTF_8)
            val lost = !text.toByteArray().contentEquals(waiting)
            return begun(if (lost) "\ufffd".repeat(waiting.size) else text).also { waiting = ByteArray(0) }
        }

        /** Without the prefix that encoding put before a text. */
        private fun begun(text: String): String {
            val rest = if (first) text.removePrefix(tokens.prefix) else text
            first = first && text.isEmpty()
            return rest
        }
    }
}

/** White space as Unicode has it: Java, Android and tokenizers differ in theirs. */
fun Char.isWhite() =
    this in '\t'..'\r' || this in '\u2000'..'\u200a' || this in " \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000"
