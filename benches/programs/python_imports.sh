# python3 that imports ten modules of its library.
exec python3 -c '
import argparse, asyncio, decimal, email.message, http.client, json
import logging, subprocess, unittest, xml.etree.ElementTree
print(asyncio.__name__, json.loads("[1]"))'
