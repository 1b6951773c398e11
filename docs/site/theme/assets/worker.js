// A page that is opened from the disk may not start a Worker. There, and only there, this class stands in for it: it
// runs the worker's script in a hidden frame and carries the messages to and fro.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super()
      this.onmessage = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      window.addEventListener("message", event => {
        if (event.source !== inner) return
        const copy = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(copy)
        if (this.onmessage) this.onmessage(copy)
      })
      inner.document.open()
      inner.document.write(
        "<body><script>postMessage = data => parent.postMessage(data, '*')</" + "script>" +
        "<script src='" + new URL(script, location) + "'></" + "script></body>"
      )
      inner.document.close()
      this.ready = new Promise(resolve => { inner.addEventListener("load", resolve) })
    }

    postMessage(data) {
      this.ready.then(() => {
        const inner = this.frame.contentWindow
        inner.dispatchEvent(new inner.MessageEvent("message", { data: structuredClone(data) }))
      })
    }

    terminate() { this.frame.remove() }
  }
}
