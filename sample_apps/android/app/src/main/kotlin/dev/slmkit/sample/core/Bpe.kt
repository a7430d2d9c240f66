package dev.slmkit.sample.core

/** Byte-pair encoding of one word: the pair of the lowest rank is joined first, from the left. */
class Bpe(model: Map<String, Any?>) {
    private val vocab = HashMap<String, Int>()
    private val merges = HashMap<Long, Long>() // (left id, right id) to (rank, joined id)
    private val unknown: Int?
    private val bytes: List<Int>? // of the 256 tokens <0x00> to <0xFF>
    private val wholeFirst = model["ignore_merges"] == true
    private val fused = model["fuse_unk"] == true

    init {
        demand((model["type"] ?: "BPE") == "BPE") { "the tokenizer is a ${model["type"]}; this app reads BPE" }
        for (key in listOf("dropout", "continuing_subword_prefix", "end_of_word_suffix")) {
            val none = model[key] == null || model[key] == ""
            demand(none) { "the tokenizer's BPE has a $key, which this app does not read" }
        }
        for ((token, id) in model["vocab"].obj()) vocab[token] = id.int()
        unknown = (model["unk_token"] as String?)?.let { vocab[it] }
        val all = (0..255).map { vocab["<0x%02X>".format(it)] }
        bytes = if (model["byte_fallback"] == true && null !in all) all.filterNotNull() else null
        model["merges"].list().forEachIndexed { rank, merge ->
            val (left, right) = if (merge is String) merge.split(' ', limit = 2) else merge.list().map { it as String }
            merges[pair(vocab.getValue(left), vocab.getValue(right))] = pair(rank, vocab.getValue(left + right))
        }
    }

    fun tokens() = vocab.entries.associate { it.value to it.key }

    fun encode(word: String, out: MutableList<Int>) {
        val whole = if (wholeFirst) vocab[word] else null
        out.addAll(if (whole != null) listOf(whole) else join(symbols(word)))
    }

    private fun symbols(word: String): MutableList<Int> {
        val ids = ArrayList<Int>()
        var at = 0
        var afterUnknown = false
        while (at < word.length) {
            val next = word.offsetByCodePoints(at, 1)
            val char = word.substring(at, next)
            val id = vocab[char]
            when {
                id != null -> ids.add(id)
                bytes != null -> char.toByteArray().forEach { ids.add(bytes[it.toInt() and 255]) }
                unknown != null && !(fused && afterUnknown) -> ids.add(unknown)
            }
            afterUnknown = id == null && bytes == null
            at = next
        }
        return ids
    }

    /** Joins the pair of the lowest rank, the first of several, until none is left. */
    private fun join(ids: MutableList<Int>): List<Int> {
        fun merge(at: Int) = merges[pair(ids[at], ids[at + 1])] ?: Long.MAX_VALUE
        val found = MutableList(maxOf(ids.size - 1, 0)) { merge(it) }
        while (true) {
            val best = found.minOrNull()?.takeIf { it < Long.MAX_VALUE } ?: return ids
            val at = found.indexOf(best)
            ids[at] = best.toInt()
            ids.removeAt(at + 1)
            found.removeAt(at)
            if (at > 0) found[at - 1] = merge(at - 1)
            if (at < found.size) found[at] = merge(at)
        }
    }

    private fun pair(high: Int, low: Int) = high.toLong().shl(32) or low.toLong()
}
