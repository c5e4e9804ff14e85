-- Whether the end of a message arrives somewhere: read where that is asked, and made only then.

-- What a value in MessagePack has behind its first byte: so many bytes, or its length, written so.
local SIZES = {
  [0xc0] = 0, [0xc2] = 0, [0xc3] = 0, [0xca] = 4, [0xcb] = 8, [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8,
  [0xd0] = 1, [0xd1] = 2, [0xd2] = 4, [0xd3] = 8, [0xd4] = 2, [0xd5] = 3, [0xd6] = 5, [0xd7] = 9, [0xd8] = 17,
}
local LENGTHS = {
  [0xc4] = '>B', [0xc5] = '>I2', [0xc6] = '>I4', [0xc7] = '>Bx', [0xc8] = '>I2x', [0xc9] = '>I4x', [0xd9] = '>B',
  [0xda] = '>I2', [0xdb] = '>I4', [0xdc] = '>I2', [0xdd] = '>I4', [0xde] = '>I2', [0xdf] = '>I4',
}

-- The place behind so many values; raises where these are none. cmsgpack cannot read bytes, which
-- all bodies are.
local function behind(blob, at, count)
  for _ = 1, #blob do
    if count == 0 then return at end
    local kind = string.byte(blob, at)
    count, at = count - 1, at + 1
    if kind < 0x80 or kind >= 0xe0 then -- a small number, which is all
    elseif kind < 0x90 then
      count = count + 2 * (kind - 0x80)
    elseif kind < 0xa0 then
      count = count + kind - 0x90
    elseif kind < 0xc0 then
      at = at + kind - 0xa0
    elseif LENGTHS[kind] then
      local length
      length, at = struct.unpack(LENGTHS[kind], blob, at)
      if kind >= 0xde then
        count = count + 2 * length
      elseif kind >= 0xdc then
        count = count + length
      else
        at = at + length
      end
    else
      at = at + SIZES[kind]
    end
  end
end

-- Whether the ninth of its fields is there and not empty; what other hands wrote has none.
local function has_ends(blob)
  local fields = string.byte(blob) or 0
  if fields < 0x99 or fields > 0x9f then return false end
  local is_read, at = pcall(behind, blob, 2, 8)
  local kind = is_read and at and string.byte(blob, at) or 0
  return kind > 0x90 and kind <= 0x9f or kind == 0xdc
end
