package dev.slmkit.sample.core

import java.util.PriorityQueue

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
        if (whole != null) out.add(whole) else join(symbols(word)) { out.add(it) }
    }

    private fun symbols(word: String): IntArray {
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
        return ids.toIntArray()
    }

    private class Candidate(val merge: Long, val at: Int)

    private fun join(ids: IntArray, emit: (Int) -> Unit) {
        val next = IntArray(ids.size) { it + 1 }
        val before = IntArray(ids.size) { it - 1 }
        val queue = PriorityQueue<Candidate>(11, compareBy({ it.merge ushr 32 }, { it.at }))
        fun merge(at: Int) = if (at < 0 || next[at] >= ids.size) null else merges[pair(ids[at], ids[next[at]])]
        fun offer(at: Int) { merge(at)?.let { queue.add(Candidate(it, at)) } }
        for (at in ids.indices) offer(at)
        while (true) {
            val best = queue.poll() ?: break
            if (ids[best.at] < 0 || merge(best.at) != best.merge) continue // joined in the meantime
            val gone = next[best.at]
            ids[best.at] = best.merge.toInt()
            ids[gone] = -1
            next[best.at] = next[gone]
            if (next[gone] < ids.size) before[next[gone]] = best.at
            offer(before[best.at])
            offer(best.at)
        }
        ids.forEach { if (it >= 0) emit(it) }
    }

    private fun pair(high: Int, low: Int) = high.toLong().shl(32) or low.toLong()
}
