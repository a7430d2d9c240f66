plugins {
    id("com.android.application") version "8.13.0"
    id("org.jetbrains.kotlin.android") version "2.2.20"
    id("org.jetbrains.kotlin.plugin.serialization") version "2.2.20"
}

android {
    namespace = "dev.slmkit.sample"
    compileSdk = 36
    defaultConfig {
        applicationId = "dev.slmkit.sample"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "0.1"
        ndk { abiFilters += "arm64-v8a" }
    }
    flavorDimensions += "runtime"
    productFlavors {
        create("plain") // ONNX Runtime
        create("litertlm") // and LiteRT-LM, for models exported with --artifact litert
    }
    androidResources { noCompress += listOf("onnx", "data", "litertlm") }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin {
    compilerOptions { jvmTarget.set(org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11) }
}

dependencies {
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
    implementation("org.jetbrains.kotlinx:kotlinx-serialization-json:1.9.0")
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.29.0")
    "litertlmImplementation"("com.google.ai.edge.litertlm:litertlm-android:0.18.1")
    testImplementation("com.microsoft.onnxruntime:onnxruntime:1.29.0") // the same API, for this computer
    testImplementation("junit:junit:4.13.2")
}
