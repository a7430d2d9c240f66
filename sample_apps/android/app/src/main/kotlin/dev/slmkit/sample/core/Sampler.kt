package dev.slmkit.sample.core

import kotlin.math.exp

/** Greedy at temperature 0, else penalty, temperature, top-k and top-p, with the random numbers of Python and Swift. */
class Sampler(
    private val temperature: Double = 0.0,
    private val topK: Int = 0, // 0: all
    private val topP: Double = 1.0,
    private val penalty: Float = 1f,
    seed: Long = 0,
) {
    private var state = (seed xor -0x61c8864680b583ebL).let { if (it == 0L) 1L else it }

    /** A token id. ``before``: the sequence so far, for the penalty, which changes the logits. */
    fun next(logits: FloatArray, before: Set<Int>): Int {
        for (id in before) logits[id] = if (logits[id] < 0) logits[id] * penalty else logits[id] / penalty
        if (temperature == 0.0) return logits.indices.maxBy { logits[it] }
        val order = best(logits, if (topK == 0) logits.size else topK)
        val weights = DoubleArray(order.size) { exp(logits[order[it]] / temperature - logits[order[0]] / temperature) }
        val enough = topP * weights.sum()
        var mass = 0.0
        var kept = 0
        while (kept < order.size && (kept == 0 || mass < enough)) mass += weights[kept++]
        var left = draw() / 16777216.0 * mass
        for (at in 0 until kept) {
            left -= weights[at]
            if (left < 0) return order[at]
        }
        return order[kept - 1]
    }

    /** 24 bits of xorshift64*. */
    private fun draw(): Long {
        state = state xor (state ushr 12)
        state = state xor (state shl 25)
        state = state xor (state ushr 27)
        return (state * 0x2545F4914F6CDD1DL) ushr 40
    }

    companion object {
        /** What the model's author asks for. */
        fun of(generation: Map<String, Any?>, seed: Long): Sampler {
            fun number(key: String) = generation[key] as Double
            val temperature = if (generation["do_sample"] == true) number("temperature") else 0.0
            val penalty = number("repetition_penalty").toFloat()
            return Sampler(temperature, generation["top_k"].int(), number("top_p"), penalty, seed)
        }

        /** Ids of the ``count`` largest logits, best first; of equal ones the lower id. */
        fun best(logits: FloatArray, count: Int): List<Int> {
            val keys = LongArray(logits.size) { id ->
                val bits = (logits[id] + 0f).toRawBits() // in the order of the floats, negative ones in the reverse
                (if (bits < 0) bits xor Int.MAX_VALUE else bits).inv().toLong() shl 32 or id.toLong()
            }
            keys.sort()
            return keys.take(count).map { it.toInt() }
        }
    }
}
