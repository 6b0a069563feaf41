"""The networks that ship or can be loaded: CharNet, AlexNet, SqueezeNet, and weights as files.

Knows architectures, and nothing of training. Start reading at `charnet`, the paper's network.
"""
