"""gRPC: generation whole and streamed, models, health, reflection. The contract is `glm_crush.proto`."""
