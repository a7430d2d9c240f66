package dev.slmkit.sample.core

import java.util.PriorityQueue

/** Byte-pair encoding of one word: the pair of the lowest rank is joined first, from the left. */
class Bpe(private val tokens: Tokens) {
    private val characters = HashMap<Int, Int>() // their ids by code points; others go by their bytes
    private val merges = HashMap<Long, Long>() // (left id, right id) to (rank, joined id)
    private val whole = HashMap<String?, Int>() // words that are one token, however their pairs would join

    init {
        for (at in tokens.characters.indices step 2) characters[tokens.characters[at]] = tokens.characters[at + 1]
        for (at in tokens.merges.indices step 3) {
            merges[pair(tokens.merges[at], tokens.merges[at + 1])] = pair(at, tokens.merges[at + 2])
        }
        if (tokens.wholeFirst) tokens.texts.forEachIndexed { id, text -> whole.getOrPut(text) { id } }
    }

    fun encode(word: String, out: MutableList<Int>) {
        val one = if (tokens.wholeFirst) whole[String(word.toByteArray(), Charsets.ISO_8859_1)] else null
        if (one != null) out.add(one) else join(symbols(word)) { out.add(it) }
    }

    private fun symbols(word: String): IntArray {
        val ids = ArrayList<Int>()
        var at = 0
        while (at < word.length) {
            val next = word.offsetByCodePoints(at, 1)
            val bytes = { word.substring(at, next).toByteArray().map { tokens.byteIds[it.toInt() and 255] } }
            ids.addAll(characters[word.codePointAt(at)]?.let { listOf(it) } ?: bytes())
            at = next
        }
        return ids.filter { it >= 0 }.toIntArray()
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
