"""LitServe with the same model and one worker, for `bench/test_serve.py`; its package is in none of the extras."""

import io
import sys

import litserve
import numpy as np
from PIL import Image


class Digits(litserve.LitAPI):
    """An image file as a form field, as LitServe's own examples take pictures."""

    def setup(self, device):
        import onnxruntime

        from zoo import registry

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        content = (registry.find("mnist14k").folder / "model.onnx").read_bytes()
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: litserve.Request):
        pixels = Image.open(io.BytesIO(request["file"].file.read())).convert("L")
        return np.asarray(pixels)[np.newaxis, ..., np.newaxis]

    def predict(self, pixels):
        return self.session.run(None, {"image": pixels})[1][0]

    def encode_response(self, probabilities):
        return {"label": str(int(probabilities.argmax()))}


if __name__ == "__main__":
    litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
