package dev.slmkit.sample.core

import java.io.File
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.log10
import kotlin.math.pow

/** Replays a bundle's golden cases on this device and compares with the float32 reference: slmkit-device-report/1. */
class SelfTest(private val device: Map<String, Any>) {
    /** Runs one artifact. ``open`` gives its backend. An artifact that cannot run is a report with the reason. */
    fun run(export: Export, cases: () -> String, open: () -> ModelBackend): Map<String, Any?> {
        val start = System.nanoTime()
        val report = linkedMapOf<String, Any?>("format" to "slmkit-device-report/1", "device" to device)
        report["artifact"] = export.artifact
        report["model"] = export.model
        try {
            open().use { backend ->
                val root = Json.parse(cases()).obj()
                val format = root["format"]
                demand(format == FORMAT) { "cases.json has the format $format; this app reads $FORMAT" }
                report["runtime"] = mapOf("name" to backend.name)
                report["load_s"] = since(start)
                val ran = root["cases"].list().map { Case(it.obj()).apply { run(backend) } }
                report["cases"] = ran.map { it.report() }
                report["greedy"] = ran.sumOf { it.same } / ran.sumOf { it.steps.size }.toDouble()
                report["db"] = decibels(ran.sumOf { it.signal }, ran.sumOf { it.noise })
            }
            report["executed"] = true
            report["errors"] = emptyList<String>()
        } catch (e: Throwable) { // an OutOfMemoryError or a missing library too: the report says so
            report["executed"] = false
            report["errors"] = listOf(e.message ?: e.toString())
        }
        report["wall_s"] = since(start)
        report["peak_mb"] = peakMegabytes()
        return report
    }

    private class Case(private val case: Map<String, Any?>) {
        val steps = case["steps"].list().map { it.obj() }
        private val rows = ArrayList<Map<String, Any>>()
        private var prefill = 0.0
        private var decode = 0.0
        var same = 0
        var signal = 0.0 // of the reference's best logits
        var noise = 0.0

        /** Feeds what the reference chose, so that every step is comparable. */
        fun run(backend: ModelBackend) {
            val prompt = case["prompt_ids"].ints()
            backend.reset()
            val start = System.nanoTime()
            var logits = backend.feed(prompt)
            prefill = since(start)
            steps.forEachIndexed { at, step ->
                compare(logits, step)
                val begin = System.nanoTime()
                if (at + 1 < steps.size) logits = backend.feed(listOf(step["id"].int())).also { decode += since(begin) }
            }
        }

        private fun compare(logits: FloatArray, step: Map<String, Any?>) {
            val best = Sampler.best(logits, TOP)
            val most = logits[best[0]].toDouble()
            val top = step["top"].list().map { it.list() }
            for ((id, want) in top) {
                signal += (want as Double).pow(2)
                noise += (logits[id.int()] - want).pow(2)
            }
            if (best[0] == top[0][0].int()) same++
            val norm = most + ln(logits.sumOf { exp(it - most) })
            rows.add(mapOf("ids" to best, "logits" to best.map { logits[it] }, "norm" to norm))
        }

        fun report() = mapOf(
            "name" to case["name"],
            "greedy" to same / steps.size.toDouble(),
            "db" to decibels(signal, noise),
            "ttft_ms" to prefill * 1e3,
            "prefill_tps" to case["prompt_ids"].list().size / prefill,
            "decode_tps" to if (steps.size > 1) (steps.size - 1) / decode else 0.0,
            "rows" to rows,
        )
    }

    companion object {
        private const val TOP = 8
        private const val FORMAT = "slmkit-app-cases/1"

        /** A report in a few lines for the screen. */
        fun summary(report: Map<String, Any?>): String {
            val head = "${report["model"]}/${report["artifact"]}"
            if (report["executed"] == false) return "$head: not executed: ${report["errors"].list().joinToString()}"
            val lines = report["cases"].list().map { it.obj() }.map {
                val times = "first token after %.0f ms, %.1f tokens/s".format(it["ttft_ms"], it["decode_tps"])
                "%s…\n  %.1f dB, %s".format((it["name"] as String).take(40), it["db"], times)
            }
            val percent = report["greedy"] as Double * 100
            val same = "%.1f dB, %.1f %% of the reference's tokens".format(report["db"], percent)
            val cost = "loaded in %.1f s, peak %s MB".format(report["load_s"], report["peak_mb"])
            return (listOf("$head: $same, $cost") + lines).joinToString("\n")
        }

        private fun decibels(signal: Double, noise: Double) = 10 * log10(signal / maxOf(noise, 1e-30))

        private fun since(start: Long) = (System.nanoTime() - start) / 1e9

        private fun peakMegabytes() = line("/proc/self/status", "VmHWM")?.filter { it.isDigit() }?.toLong()?.div(1024)

        /** What a file of the system says after a name. */
        fun line(path: String, name: String) = File(path).takeIf { it.canRead() }
            ?.useLines { lines -> lines.firstOrNull { it.startsWith(name) } }?.substringAfter(":")?.trim()
    }
}
