package dev.slmkit.sample.core

import java.io.File
import java.security.MessageDigest

/** The reason why this app cannot do something, in a sentence that the screen shows. */
class Refused(message: String) : Exception(message)

/** One artifact as `slmkit export` writes it: the facts that an app needs, and its files. */
class Export(val folder: File) {
    private val root = Json.parse(File(folder, FILE).readText()).obj()

    init {
        val version = root["schema_version"].int()
        if (version != 1) throw Refused("$folder: $FILE has the schema version $version; this app reads 1")
    }

    val model = root["model"] as String
    val artifact = root["artifact"] as String
    val devices = root["devices"].list().joinToString(" or ")
    val memory = (root["memory"] as Double).toLong() // bytes, at the whole context
    val contextLength = root["context_length"].int()
    val stopIds = root["stop_ids"].ints().toSet()
    val generation = root["generation"].obj()
    val facts = root["facts"].obj()
    val tokenizer = File(folder, "${(root["tokenizer"] as String?)?.plus("/") ?: ""}tokenizer.json")

    /** Refuses a model for which ``available`` bytes are too few. */
    fun checkMemory(available: Long) {
        if (memory > available) throw Refused("$model needs ${memory.mega()} MB of memory and ${available.mega()} MB are free: close other apps, or take a smaller model")
    }

    /** Refuses files that are not those which were exported: sizes first, then SHA-256. */
    fun checkFiles() {
        val files = root["files"].list().map { it.obj() }
        for (file in files) {
            val size = File(folder, file["path"] as String).length()
            if (size != (file["size"] as Double).toLong()) throw Refused("${file["path"]} has $size bytes, not ${file["size"].int()}: copy the model again")
        }
        for (file in files) if (sha256(File(folder, file["path"] as String)) != file["sha256"]) throw Refused("${file["path"]} is damaged: copy the model again")
    }

    private fun Long.mega() = (this + 999_999) / 1_000_000

    private fun sha256(file: File): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val buffer = ByteArray(1 shl 16)
        file.inputStream().use { while (true) { val count = it.read(buffer); if (count < 0) break; digest.update(buffer, 0, count) } }
        return digest.digest().joinToString("") { "%02x".format(it) }
    }

    companion object {
        const val FILE = "slmkit-export.json"

        /** The exports below a folder, by name. */
        fun of(folder: File) = folder.listFiles().orEmpty().filter { File(it, FILE).isFile }.sorted().map { Export(it) }
    }
}
