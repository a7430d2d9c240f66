package dev.slmkit.sample.core

import java.io.File
import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.log10
import kotlin.math.pow
import kotlinx.serialization.Serializable
import kotlinx.serialization.Transient

/** cases.json: golden prompts, and the reference's best ids with their logits at every step, the best one first. */
@Serializable
class Cases(val cases: List<Case>) {
    @Serializable
    class Case(val name: String, val promptIds: List<Int>, val steps: List<Step>)

    @Serializable
    class Step(val id: Int, val top: List<List<Double>>)
}

/** What was found of one artifact on this device: slmkit-device-report/1. */
@Serializable
class Report(val model: String, val artifact: String, val device: Map<String, String>) {
    val format = "slmkit-device-report/1"
    var executed = false
    var errors = emptyList<String>()
    var runtime: Map<String, String>? = null
    var files: Map<String, String>? = null // SHA-256 of what ran, by path
    var cases = emptyList<Case>()
    var greedy: Double? = null // share of steps whose best id is the reference's
    var db: Double? = null // of the reference's best logits
    var loadS: Double? = null
    var wallS = 0.0
    var peakMb: Long? = null

    @Serializable
    class Case(
        val name: String, val greedy: Double, val db: Double,
        val ttftMs: Double, val prefillTps: Double, val decodeTps: Double,
        val rows: List<Row>,
    )

    /** The best ids of one step, their logits, and the log of the sum of exp over the vocabulary. */
    @Serializable
    class Row(
        val ids: List<Int>,
        val logits: List<Float>,
        val norm: Double,
        @Transient val same: Boolean = false, // the best one is the reference's
        @Transient val signal: Double = 0.0, // of the reference's best logits
        @Transient val noise: Double = 0.0,
    )

    /** A few lines for the screen. */
    fun summary(): String {
        if (!executed) return "$model/$artifact: not executed: ${errors.joinToString()}"
        val lines = cases.map {
            val times = "first token after %.0f ms, %.1f tokens/s".format(it.ttftMs, it.decodeTps)
            "%s…\n  %.1f dB, %s".format(it.name.take(40), it.db, times)
        }
        val same = "%.1f dB, %.1f %% of the reference's tokens".format(db, greedy!! * 100)
        val cost = "loaded in %.1f s, peak %s MB".format(loadS, peakMb)
        return (listOf("$model/$artifact: $same, $cost") + lines).joinToString("\n")
    }
}

private const val TOP = 8 // ids of a row

/** Replays a bundle's golden cases on this device and compares with the float32 reference. */
class SelfTest(private val device: Map<String, String>) {
    /** Runs one artifact. ``open`` gives its backend. An artifact that cannot run is a report with the reason. */
    fun run(export: Export, cases: () -> String, open: () -> ModelBackend): Report {
        val start = System.nanoTime()
        val report = Report(export.model, export.artifact, device)
        try {
            open().use { backend ->
                val golden = written<Cases>(cases(), "cases.json", "slmkit-app-cases/1").cases
                report.runtime = mapOf("name" to backend.name)
                report.files = export.hashes // opening has compared them
                report.loadS = since(start)
                report.cases = golden.map { replay(it, backend) }
                val rows = report.cases.flatMap { it.rows }
                demand(rows.isNotEmpty()) { "cases.json has no cases" }
                report.greedy = greedy(rows)
                report.db = decibels(rows)
            }
            report.executed = true
        } catch (e: Throwable) { // an OutOfMemoryError or a missing library too: the report says so
            report.errors = listOf(e.message ?: e.toString())
        }
        report.wallS = since(start)
        report.peakMb = systemLine("/proc/self/status", "VmHWM")?.filter { it.isDigit() }?.toLong()?.div(1024)
        return report
    }

    /** Feeds what the reference chose, so that every step is comparable. */
    private fun replay(case: Cases.Case, backend: ModelBackend): Report.Case {
        val rows = ArrayList<Report.Row>()
        backend.reset()
        val start = System.nanoTime()
        var logits = backend.feed(case.promptIds)
        val prefill = since(start)
        var decode = 0.0
        case.steps.forEachIndexed { at, step ->
            rows.add(row(logits, step))
            val begin = System.nanoTime()
            if (at + 1 < case.steps.size) logits = backend.feed(listOf(step.id)).also { decode += since(begin) }
        }
        val speed = if (rows.size > 1) (rows.size - 1) / decode else 0.0
        val reading = case.promptIds.size / prefill
        return Report.Case(case.name, greedy(rows), decibels(rows), prefill * 1e3, reading, speed, rows)
    }

    private fun row(logits: FloatArray, step: Cases.Step): Report.Row {
        val best = best(logits, TOP)
        val most = logits[best[0]].toDouble()
        val norm = most + ln(logits.sumOf { exp(it - most) })
        demand(norm.isFinite()) { "logits are not finite" }
        val signal = step.top.sumOf { (_, want) -> want.pow(2) }
        val noise = step.top.sumOf { (id, want) -> (logits[id.toInt()] - want).pow(2) }
        return Report.Row(best, best.map { logits[it] }, norm, best[0] == step.top[0][0].toInt(), signal, noise)
    }

    private fun greedy(rows: List<Report.Row>) = rows.count { it.same } / rows.size.toDouble()

    private fun decibels(rows: List<Report.Row>) =
        10 * log10(maxOf(rows.sumOf { it.signal }, 1e-30) / maxOf(rows.sumOf { it.noise }, 1e-30))

    private fun since(start: Long) = (System.nanoTime() - start) / 1e9
}

/** What a file of the system says after a name. */
fun systemLine(path: String, name: String) = File(path).takeIf { it.canRead() }
    ?.useLines { lines -> lines.firstOrNull { it.startsWith(name) } }?.substringAfter(":")?.trim()
