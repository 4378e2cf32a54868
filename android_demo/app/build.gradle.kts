plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "io.edges2s.demo"
    compileSdk = 35

    defaultConfig {
        applicationId = "io.edges2s.demo"
        minSdk = 24
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"
        // Where the app gets its bundle if none ships with it; -Pbundle.url=... -Pbundle.size=... -Pbundle.sha256=...
        val bundle = { name: String, default: String -> providers.gradleProperty("bundle.$name").getOrElse(default) }
        buildConfigField("String", "BUNDLE_URL", "\"${bundle("url", "")}\"")
        buildConfigField("long", "BUNDLE_SIZE", "${bundle("size", "0")}L")
        buildConfigField("String", "BUNDLE_SHA256", "\"${bundle("sha256", "")}\"")
    }

    buildFeatures { buildConfig = true }

    // An asset can be mapped inside the APK only if it is stored as it is.
    androidResources { noCompress += "es2s" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

dependencies { implementation(project(":library")) }
