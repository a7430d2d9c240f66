package dev.slmkit.sample.core

/** A tokenizer.json: byte-level BPE, or SentencePiece's with byte fallback. Any other kind is refused by name. */
class Tokenizer private constructor(root: Map<String, Any?>) {
    constructor(text: String) : this(Json.parse(text).obj())

    private val bpe = Bpe(root["model"].obj())
    private val form = if (root["model"].obj()["byte_fallback"] == true) Pieces(root) else ByteLevel(root)
    private val added = root["added_tokens"].list().map { Added(it.obj(), root["normalizer"] != null) }
    private val special = added.filter { it.special }.map { it.id }.toSet()
    private val words = bpe.tokens() + added.associate { it.id to it.content }
    private val longest = added.sortedByDescending { it.content.length }

    operator fun contains(id: Int) = id in words

    /** Ids of a text in which added tokens stand for themselves. No start token is added. */
    fun encode(text: String): List<Int> = ArrayList<Int>().also { ids ->
        val (late, early) = longest.partition { it.normalized } // late: in what is between others
        cut(text, early, ids) { between ->
            cut(between, late, ids) { plain -> form.words(plain).forEach { bpe.encode(it, ids) } }
        }
    }

    private fun cut(text: String, tokens: List<Added>, ids: MutableList<Int>, between: (String) -> Unit) {
        var plain = 0
        var at = 0
        while (at < text.length) {
            val token = tokens.firstOrNull { text.startsWith(it.content, at) }
            if (token == null) {
                at++
                continue
            }
            val start = if (token.left) text.substring(0, at).trimEnd { it.isWhite() }.length else at
            if (start > plain) between(text.substring(plain, start))
            ids.add(token.id)
            at += token.content.length
            plain = at // the next token may begin in the white space that this one takes
            while (token.right && plain < text.length && text[plain].isWhite()) plain++
        }
        if (plain < text.length) between(text.substring(plain))
    }

    fun decode(ids: Iterable<Int>, special: Boolean = false): String =
        Text(special).run { ids.joinToString("") { add(it) } + end() }

    /** Text out of ids as they come. Bytes of a character wait until it is whole. */
    inner class Text(private val withSpecial: Boolean = false) {
        private val decoder = form.decoder()

        fun add(id: Int): String =
            words[id]?.takeIf { withSpecial || id !in special }?.let { decoder.add(it) } ?: ""

        fun end(): String = decoder.end()
    }

    private class Added(token: Map<String, Any?>, normalizes: Boolean) {
        val id = token["id"].int()
        val content = token["content"] as String
        val special = token["special"] == true
        val normalized = token["normalized"] == true
        val left = token["lstrip"] == true // takes the white space before it, too
        val right = token["rstrip"] == true

        init {
            val place = if (token["single_word"] == true) "as a whole word only" else "in normalized text"
            demand(token["single_word"] != true && !(normalized && normalizes)) {
                "the tokenizer finds its token $content $place, which this app does not"
            }
        }
    }
}

/** White space as Unicode has it: Java, Android and tokenizers differ in theirs. */
fun Char.isWhite() =
    this in '\t'..'\r' || this in '\u2000'..'\u200a' || this in " \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000"
