package io.edges2s.android

import io.edges2s.Cancellation
import io.edges2s.EdgeS2S
import io.edges2s.Summary
import io.edges2s.SummaryListener
import io.edges2s.SummaryOptions
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.channels.trySendBlocking
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.launch

/** What happens to a summary: [text] is all of it so far, [summary] comes last and once. */
data class SummaryEvent(val text: String, val summary: Summary? = null)

/** [EdgeS2S.summarize] as a cold flow; who stops collecting cancels the model's work. */
fun EdgeS2S.summaryFlow(text: String, options: SummaryOptions = SummaryOptions.DEFAULT): Flow<SummaryEvent> =
    callbackFlow {
        val cancellation = Cancellation()
        launch(Dispatchers.Default) {
            var all = ""
            val listener = object : SummaryListener {
                override fun onPiece(piece: String) = onReplace(all + piece)

                override fun onReplace(text: String) {
                    all = text
                    trySendBlocking(SummaryEvent(all))
                }
            }
            val summary = summarize(text, options, cancellation, listener)
            trySendBlocking(SummaryEvent(summary.text, summary))
            close()
        }
        awaitClose { cancellation.cancel() }
    }
