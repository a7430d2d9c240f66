package dev.slmkit.sample

import java.io.File

/** The models of the app's assets, and the vectors that Python wrote: folders with vectors.json, tokens.json and chat.json. */
object TestData {
    val assets = File(System.getProperty("slmkit.assets") ?: "src/main/assets")
    val vectors: List<File> = (System.getProperty("slmkit.vectors") ?: listOf("src/test/vectors", "../../vectors").first { File(it).isDirectory })
        .split(File.pathSeparator).flatMap { File(it).listFiles().orEmpty().sorted() }.filter { File(it, "vectors.json").isFile }

    fun read(folder: File, kind: String): List<Map<String, Any?>> =
        Plain.parse(File(folder, "vectors.json").readText()).obj()[kind]?.list().orEmpty().map { it.obj() }
}
