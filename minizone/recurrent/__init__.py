"""Recurrent cells over whole sequences; each is one node of the graph, with back-propagation through time by hand.

lstm.py, gru.py, rnn.py, bn_lstm.py   a cell each: equations, one step forward, one step back
sequence.py                           the loop over time, and back
cells.py                              the readable reference of each step, differentiated by the tape
"""
