voice-call = { $name } is calling
video-call = { $name } is calling with video
message =
    { $count ->
        [one] Message from { $name }
       *[other] { $count } messages from { $name }
    }
missed-call =
    { $count ->
        [one] Missed call from { $name }
       *[other] { $count } missed calls from { $name }
    }
contact-request = { $name } would like to be your contact
voicemail =
    { $count ->
        [one] Voicemail from { $name }
       *[other] { $count } voicemails from { $name }
    }
file =
    { $count ->
        [one] { $name } is sending you a file
       *[other] { $name } is sending you { $count } files
    }
mail = Mail from { $name }
self-test = The test notification has arrived
notice = Something new from { $name }
shown-on = { $event } (shown on { $device })
accept = Accept
decline = Decline
