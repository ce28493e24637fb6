"""What one writes first: FastAPI, Pillow and a session in the handler. `bench/test_serve.py` runs it under uvicorn."""

import io

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from PIL import Image

from zoo import registry

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
content = (registry.find("mnist14k").folder / "model.onnx").read_bytes()
session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/predict")
async def predict(request: Request):
    pixels = np.asarray(Image.open(io.BytesIO(await request.body())).convert("L"))[np.newaxis, ..., np.newaxis]
    probabilities = session.run(None, {"image": pixels})[1][0]
    order = probabilities.argsort()[::-1][:3]
    top_k = [{"label": str(index), "probability": float(probabilities[index])} for index in order]
    return {"label": top_k[0]["label"], "probability": top_k[0]["probability"], "top_k": top_k}


@app.get("/v2/health/ready")
async def ready():
    return {"ready": True}
