package dev.slmkit.sample

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import dev.slmkit.sample.core.SelfTest
import dev.slmkit.sample.core.json
import java.io.File
import kotlin.concurrent.thread

/** Replays the golden prompts on this phone. Its report can be shared, and lies in the app's external files. */
class SelfTestActivity : Activity() {
    private var report = ""

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        val said = text(selectable = true).apply { setText(R.string.running) }
        val column = column()
        column.addView(row(button(R.string.share) { share() }))
        column.scrolling(said)
        setContentView(column)
        thread {
            val phone = Phone(this)
            val models = phone.models()
            val test = SelfTest(phone.facts())
            val reports = models.exports.map { test.run(it, { models.cases }) { models.backend(it) } }
            report = json.encodeToString(mapOf("reports" to reports))
            File(getExternalFilesDir(null), "report.json").writeText(report) // adb pull .../files/report.json
            runOnUiThread { said.text = reports.joinToString("\n\n") { it.summary() } }
        }
    }

    private fun share() {
        if (report.isEmpty()) return
        val send = Intent(Intent.ACTION_SEND).setType("application/json").putExtra(Intent.EXTRA_TEXT, report)
        startActivity(Intent.createChooser(send, getString(R.string.share)))
    }
}
