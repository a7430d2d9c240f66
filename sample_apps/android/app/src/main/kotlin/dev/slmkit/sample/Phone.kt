package dev.slmkit.sample

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import android.system.Os
import dev.slmkit.sample.backends.Models
import dev.slmkit.sample.core.systemLine
import java.io.File

private val MODELS = listOf("model", "chat.json", "cases.json", "tokens.json")

/** What the app needs of this phone: its models, its free memory, and what it is. */
class Phone(private val context: Context) {
    /** Models that were pushed into the app's external files, else those of the assets, unpacked once. */
    fun models(): Models {
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", true) // before ONNX Runtime is loaded
        val pushed = context.getExternalFilesDir(null)?.let { Models(it, context.cacheDir, ::freeMemory) }
        return pushed?.takeIf { it.exports.isNotEmpty() } ?: Models(unpacked(), context.cacheDir, ::freeMemory)
    }

    fun facts(): Map<String, String> = mapOf(
        "model" to "${Build.MANUFACTURER} ${Build.MODEL}",
        "machine" to Build.HARDWARE,
        "os" to "Android ${Build.VERSION.RELEASE}, API ${Build.VERSION.SDK_INT}",
        "abi" to Build.SUPPORTED_ABIS[0],
        "hwcap" to systemLine("/proc/cpuinfo", "Features").orEmpty(),
    )

    private fun freeMemory(): Long {
        val info = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
        return info.availMem - info.threshold
    }

    /** The assets as files, which runtimes map into memory; again after an update of the app. */
    private fun unpacked(): File {
        val updated = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime
        val folder = File(context.filesDir, "models-$updated")
        if (!folder.exists()) {
            context.filesDir.listFiles { file -> file.name.startsWith("models-") }?.forEach { it.deleteRecursively() }
            val part = File(context.filesDir, "models-part")
            part.mkdirs()
            val names = context.assets.list("").orEmpty().filter { it in MODELS }
            for (name in names) unpack(name, File(part, name))
            check(part.renameTo(folder)) { "cannot write $folder" }
        }
        return folder
    }

    private fun unpack(asset: String, to: File) {
        val names = context.assets.list(asset).orEmpty()
        if (names.isEmpty()) context.assets.open(asset).use { from -> to.outputStream().use { from.copyTo(it) } }
        if (names.isNotEmpty()) to.mkdirs()
        for (name in names) unpack("$asset/$name", File(to, name))
    }
}
