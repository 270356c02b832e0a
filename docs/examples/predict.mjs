// Predicts a model file from Node: node predict.mjs HOST:PORT TARGET MODEL.onnx
//
// Needs `npm install @grpc/grpc-js @grpc/proto-loader` in its folder, and the .proto files: PROTO_PATH is the folder with
// milliseek/rpc/v1 in it (in a clone .types; installed, the Location of `pip show milliseek`). For TLS set CA_FILE to
// the certificate of the service or of its authority; the token comes from MILLISEEK_TOKEN.
import fs from 'node:fs'
import path from 'node:path'
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'

const [address, target, file] = process.argv.slice(2)
const definition = protoLoader.loadSync('milliseek/rpc/v1/latency.proto', {
  includeDirs: [process.env.PROTO_PATH ?? '.types'],
  longs: Number,
})
const { LatencyService } = grpc.loadPackageDefinition(definition).milliseek.rpc.v1

const credentials = process.env.CA_FILE
  ? grpc.credentials.createSsl(fs.readFileSync(process.env.CA_FILE))
  : grpc.credentials.createInsecure()
const client = new LatencyService(address, credentials)
const metadata = new grpc.Metadata()
if (process.env.MILLISEEK_TOKEN) {
  metadata.set('authorization', `Bearer ${process.env.MILLISEEK_TOKEN}`)
}
const deadline = () => ({ deadline: Date.now() + 60_000 })

// The first message of an upload is its header; the chunks follow as fast as the service takes them.
async function upload(model) {
  const { promise, resolve, reject } = withResolvers()
  const call = client.uploadModel(metadata, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)))
  promise.catch(() => call.destroy())
  call.write({ header: { name: path.basename(model), sizeBytes: fs.statSync(model).size } })
  for await (const chunk of fs.createReadStream(model, { highWaterMark: 1 << 20 })) {
    if (call.destroyed) break
    if (!call.write({ chunk })) await Promise.race([new Promise((drained) => call.once('drain', drained)), promise])
  }
  call.end()
  return (await promise).sha256
}

function predict(sha256) {
  const { promise, resolve, reject } = withResolvers()
  client.predictModel({ sha256, target }, metadata, deadline(), (error, answer) =>
    error ? reject(error) : resolve(answer.prediction)
  )
  return promise
}

function withResolvers() {
  const made = {}
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

try {
  const prediction = await predict(await upload(file))
  const { latencyMs, intervalLowMs, intervalHighMs } = prediction
  const [low, high] = [intervalLowMs, intervalHighMs].map((ms) => ms.toFixed(3))
  console.log(`${latencyMs.toFixed(3)} ms (90 %: ${low} to ${high}), ${prediction.predictor}`)
  for (const { kind, config, count, latencyMs: each } of prediction.kernels.slice(0, 5)) {
    console.log(`${(count * each).toFixed(3)} ms  ${count} x ${kind}  ${config}`)
  }
} catch (error) {
  console.error(`${grpc.status[error.code]}: ${error.details}`) // the remedy is in the trailing metadata
  process.exitCode = 1
} finally {
  client.close()
}
