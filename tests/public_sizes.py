"""The sizes of the public 9B model: Llama 3.1 8B and Whisper large-v2, in the words of their configurations."""

from transformers import WhisperConfig

LLAMA_3_1_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128257, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "audio_patch_token": 128256, "model_type": "Soundwave",
}
WHISPER_LARGE_V2 = WhisperConfig(
    d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=80
)
